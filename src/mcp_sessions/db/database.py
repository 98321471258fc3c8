"""The database of one process: units of work, lanes, and faults told apart from answers.

A unit of work is a synchronous function of a connection. ``Database.read`` runs it without a transaction;
``Database.write`` runs it in one. A unit of work runs to its end even where its caller is cancelled: nobody leaves a
connection or an open transaction behind. The statements of every request have lanes (see ``lane``).

SQLite has one writer at a time, so one thread does all that a process writes (see ``writer_thread``); reads have
connections of their own and, in WAL mode, wait for nobody.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import ClauseElement

from mcp_sessions.db.auditor_views import through_views
from mcp_sessions.db.engine import pooled_engine, sqlite_writer
from mcp_sessions.db.faults import FAULTS, is_forbidden, is_lost_connection, is_rolled_back, translated
from mcp_sessions.db.lane import Lane, Rows
from mcp_sessions.db.sqlite.checkpoints import Checkpoints
from mcp_sessions.db.sqlite.file_watch import FileWatch
from mcp_sessions.db.sqlite.writer import WriterThread
from mcp_sessions.db.types import bound_duration
from mcp_sessions.db.urls import existing_file, parse_url, shown, sqlite_file
from mcp_sessions.errors import DatabaseError, DatabaseUnavailableError, ManagerClosedError
from mcp_sessions.loop_guard import Home
from mcp_sessions.settings import Settings

T = TypeVar("T")
_Place = AsyncEngine | WriterThread

_GIVE_WAY_SECONDS = 0.01
"""Ten looks of another process's writer; other programs look more seldom, but get their chance as well."""

KEPT_BY_LANES = {"postgresql": 5, "sqlite": 2}
"""How many connections the lanes of one process keep at hand: theirs alone, so that no other work keeps a request
waiting for one."""


class Database:
    """The database of one process: runs units of work, reports faults as ``DatabaseError``, never as a "no"."""

    def __init__(self, settings: Settings) -> None:
        url = parse_url(settings.database_url)
        self.shown_url = shown(url)
        self.dialect = url.get_backend_name()
        single_writer = self.dialect == "sqlite"
        if (file := sqlite_file(url)) is not None:
            url = existing_file(url, file)
        reach = settings.sqlite_busy_timeout if single_writer else settings.connect_timeout
        self._patience = (reach + settings.statement_timeout).total_seconds()
        self._home = Home()
        kept = KEPT_BY_LANES[self.dialect]
        writers = 1 if single_writer else (settings.pool_size - kept + 1) // 2
        readers = settings.pool_size - kept - writers
        self._hot = pooled_engine(url, settings, kept, autocommit=not settings.pgbouncer)
        self._reader = pooled_engine(url, settings, readers, autocommit=not settings.pgbouncer)
        self._read_from = self._reader
        self._writer: _Place
        self._watch = self._checkpoints = None
        if file is None:
            self._writer = pooled_engine(url, settings, writers, autocommit=False)
        else:
            self._watch = FileWatch(file.absolute())
            self._writer = _sqlite_writer(url, settings, self._watch)
            self._watch.attach(self._hot.sync_engine)
            self._watch.attach(self._reader.sync_engine)
            self._checkpoints = Checkpoints(self._reader)
        self._lanes: list[Lane] = []
        self._pgbouncer = settings.pgbouncer
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work that only reads; a lost connection is tried again once, on a new one.

        Who may not read the tables of Postgres, as an auditor, reads the auditor's views.
        """
        self.require_open()
        try:
            return await self._finished(self._attempts(self._read_from, unit, repeatable=True))
        except DatabaseError as fault:
            if self._read_from is not self._reader or not is_forbidden(fault.__cause__):
                raise
        views = through_views(self._reader)
        result = await self._finished(self._attempts(views, unit, repeatable=True))
        self._read_from = views
        return result

    async def write(self, unit: Callable[[Connection], T], *, repeatable: bool = False) -> T:
        """Run a unit of work in one transaction and commit it.

        ``repeatable``: running it twice is as good as once, so it is tried again, once, where the connection was
        lost and nobody knows whether it was committed.
        """
        self.require_open()
        return await self._finished(self._written(unit, repeatable=repeatable))

    async def give_way(self) -> None:
        """Let others write between two batches of much work.

        On SQLite, what this process writes stands in a queue, but other processes only look every now and then whether
        the file is free: without a pause they would hardly ever find it so.
        """
        if self._checkpoints is not None and not self._closed:
            await asyncio.sleep(_GIVE_WAY_SECONDS)

    def lane(
        self,
        statement: ClauseElement,
        durations: Mapping[str, timedelta],
        *,
        writes: bool = False,
        repeatable: bool = True,
        lock_timeout: float | None = None,
    ) -> Lane:
        """Return a lane for a hot statement, run with the same durations each time; it is closed with the database.

        ``lock_timeout``, in seconds, bounds each of its waits for a lock on Postgres.
        """
        writer = self._writer
        lane = Lane(
            self._hot,
            statement,
            {name: bound_duration(duration, self.dialect) for name, duration in durations.items()},
            write=partial(self._fetch_written, writer) if writes and isinstance(writer, WriterThread) else None,
            watch=self._watch,
            shown_url=self.shown_url,
            in_transaction=self._pgbouncer,
            repeatable=repeatable,
            lock_timeout=lock_timeout,
        )
        self._lanes.append(lane)
        return lane

    @property
    def connections_in_use(self) -> int:
        """How many connections are out of their pools right now, besides those that lanes keep at hand."""
        out = sum(map(_out_of, (self._hot, self._reader, self._writer)))
        return out - sum(lane.keeps_a_connection for lane in self._lanes)

    async def close(self) -> None:
        """Wait for the units of work that are running, then close every connection; idempotent."""
        self.require_here()
        self._closed = True
        if self._running:
            await asyncio.wait(self._running)
        for lane in self._lanes:
            await lane.close()
        if self._checkpoints is not None:
            await self._checkpoints.close()
        await self._hot.dispose()
        await self._reader.dispose()
        await self._writer.dispose()

    async def _written(self, unit: Callable[[Connection], T], *, repeatable: bool) -> T:
        result = await self._attempts(self._writer, unit, repeatable=repeatable)
        self._note_write()
        return result

    async def _fetch_written(self, writer: WriterThread, text: str, arguments: Sequence[Any]) -> Rows:
        rows = await writer.fetch(text, arguments)
        self._note_write()
        return rows

    def _note_write(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.note_write()

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait([task], timeout=self._patience)
        if not task.done():  # it goes on to its own end, as where its caller is cancelled
            raise DatabaseUnavailableError(
                f"the database {self.shown_url} is not available: no answer within {self._patience:g} s; "
                "whether what was asked for took effect is unknown"
            )
        return task.result()

    def deadline(self) -> float:
        """Return until when, by the event loop's clock, a call that is made now may take; raise like ``require_open``.

        It has the time that it takes to reach the database and the time of a statement, both as set, however many
        statements and calls stand before it.
        """
        loop = self._home.loop()
        if self._closed:
            self.require_open()
        return loop.time() + self._patience

    def require_here(self) -> None:
        """Raise ``ManagerElsewhereError`` in another event loop or process than the one that opened the database."""
        self._home.loop()

    def require_open(self) -> None:
        """Raise ``ManagerClosedError`` once the database was closed, or like ``require_here``."""
        self.require_here()
        if self._closed:
            raise ManagerClosedError("the database was closed; use the manager inside its 'async with'")

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a cancelled caller does not ask for it any more

    async def _attempts(self, place: _Place, unit: Callable[[Connection], T], *, repeatable: bool) -> T:
        try:
            return await _attempt(place, unit)
        except FAULTS as fault:
            if not (is_rolled_back(fault) or (repeatable and is_lost_connection(fault))):
                raise translated(fault, self.shown_url) from fault
        try:
            return await _attempt(place, unit)
        except FAULTS as fault:
            raise translated(fault, self.shown_url) from fault


def _sqlite_writer(url: URL, settings: Settings, watch: FileWatch) -> WriterThread:
    engine = sqlite_writer(url, settings)
    watch.attach(engine)
    return WriterThread(engine, settings.sqlite_busy_timeout.total_seconds(), watch.check)


def _out_of(place: _Place) -> int:
    if isinstance(place, WriterThread):
        return int(place.is_busy)
    pool: Any = place.pool  # not every pool counts, but those of our engines do
    return int(pool.checkedout())


async def _attempt(place: _Place, unit: Callable[[Connection], T]) -> T:
    if isinstance(place, WriterThread):
        return await place.run(unit)
    async with place.begin() as connection:
        return await connection.run_sync(unit)
