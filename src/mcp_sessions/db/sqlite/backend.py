"""The backend of SQLite, which has one writer at a time.

One thread does all that a process writes (see ``writer``); reads have connections of their own and, in WAL mode, wait
for nobody. After each transaction and each read the file is looked at, whether it is still there (``file_watch``).
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import NullPool

from mcp_sessions.db.backend import Backend
from mcp_sessions.db.hot_statements import Prepare, Prepared, Rows
from mcp_sessions.db.sqlite.checkpoints import Checkpoints
from mcp_sessions.db.sqlite.engine import pooled_reader, sqlite_engine, sqlite_writer
from mcp_sessions.db.sqlite.file_watch import FileWatch
from mcp_sessions.db.sqlite.quick_reads import QuickReads
from mcp_sessions.db.sqlite.writer import WriterThread
from mcp_sessions.db.urls import existing_file, shown, sqlite_file
from mcp_sessions.db.wake_ups import FileWakeUps, WakeUps
from mcp_sessions.settings import Settings

T = TypeVar("T")

_GIVE_WAY_SECONDS = 0.01
"""Ten looks of another process's writer; other programs look more seldom, but get their chance as well."""


class SqliteBackend(Backend):
    """The backend of an SQLite file."""

    dialect = "sqlite"
    reads_are_cancellable = True

    def __init__(self, url: URL, settings: Settings) -> None:
        patience = settings.sqlite_busy_timeout + settings.statement_timeout
        super().__init__(shown(url), patience, settings.statement_timeout)
        self._file = sqlite_file(url).absolute()
        self._url = existing_file(url, sqlite_file(url))
        self._settings = settings
        self._watch = FileWatch(self._file)
        writer = sqlite_writer(self._url, settings)
        self._watch.attach(writer)
        self._writer = WriterThread(writer, settings.sqlite_busy_timeout.total_seconds(), self._watch.check)
        self._keeping = 0  # how many hot statements keep a connection

    async def give_way(self) -> None:
        """Pause: other processes only look every now and then whether the file is free, and would hardly find it so."""
        if not self._closed:
            await asyncio.sleep(_GIVE_WAY_SECONDS)

    def wake_ups(self) -> WakeUps:
        """Return the wake-ups by the file's counter of changes."""
        return FileWakeUps(str(self._file))

    @property
    def connections_in_use(self) -> int:
        """How many connections are out of the readers' pool right now, and whether the writer is at work."""
        pool: Any = self._reader.pool  # not every pool counts, but this one does
        return int(pool.checkedout()) + self._writer.is_busy

    @cached_property
    def _hot_engine(self) -> AsyncEngine:
        engine = sqlite_engine(self._url, self._settings, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._watch.attach(engine.sync_engine)
        return engine

    @cached_property
    def _reader(self) -> AsyncEngine:
        engine = pooled_reader(self._url, self._settings, self._settings.pool_size - self._keeping - 1)
        self._watch.attach(engine.sync_engine)
        return engine

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self._reader)

    async def _read(self, unit: Callable[[Connection], T]) -> T:
        return await self._twice(partial(self._read_once, unit), repeatable=True)

    async def _read_once(self, unit: Callable[[Connection], T]) -> T:
        async with self._reader.begin() as connection:
            return await connection.run_sync(unit)

    async def _write(self, unit: Callable[[Connection], T]) -> T:
        result = await self._writer.run(unit)
        self._checkpoints.note_write()
        return result

    def _preparer(self, *, writes: bool, lock_timeout: timedelta | None) -> Prepare:  # noqa: ARG002 - no row locks
        if writes:
            return self._prepared_write
        self._keeping += 1
        return self._prepared_read

    async def _prepared_write(self, text: str) -> Prepared:
        return _Write(self._writer, self._checkpoints, text)

    async def _prepared_read(self, text: str) -> Prepared:
        connection = await self._hot_engine.connect()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        return _Read(connection, QuickReads(driver, text), self._watch)

    async def _dispose(self) -> None:
        await self._checkpoints.close()
        for engine in (self._hot_engine, self._reader):
            await engine.dispose()
        await self._writer.dispose()


class _Read:
    """A read on a connection kept for it."""

    def __init__(self, connection: AsyncConnection, reads: QuickReads, watch: FileWatch) -> None:
        self._connection = connection
        self._reads = reads
        self._watch = watch

    async def run(self, arguments: Sequence[Any]) -> Rows:
        """Run it, and make sure that the file is still the one that others find."""
        rows = await self._reads.fetch(arguments)
        self._watch.check_read(self._connection.info)
        return rows

    async def discard(self) -> None:
        """Invalidate the connection: the next call gets another one."""
        await self._connection.invalidate()
        await self._connection.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


class _Write:
    """A statement of the one writer, which keeps nothing here."""

    def __init__(self, writer: WriterThread, checkpoints: Checkpoints, text: str) -> None:
        self._writer = writer
        self._checkpoints = checkpoints
        self._text = text

    async def run(self, arguments: Sequence[Any]) -> Rows:
        """Have the writer run it."""
        rows = await self._writer.fetch(self._text, arguments)
        self._checkpoints.note_write()
        return rows

    async def discard(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""
