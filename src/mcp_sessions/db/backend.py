"""The one door to a database: units of work, hot statements, and faults told apart from answers.

A unit of work is a synchronous function of a connection. ``Backend.read`` runs it without a transaction;
``Backend.write`` runs it in one. A unit of work runs to its end even where its caller is cancelled: nobody leaves a
connection or an open transaction behind. The statements of every request are ``hot_statements``.

There is one kind of backend for each engine (``postgres``, ``sqlite.backend``), which ``engines`` chooses by the URL.
Above this door nobody asks which engine it is.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import ClauseElement

from mcp_sessions.db.faults import attempted_twice
from mcp_sessions.db.hot_statements import HotStatement, Prepare
from mcp_sessions.db.wake_ups import WakeUps
from mcp_sessions.errors import DatabaseHeldError, DatabaseUnavailableError, ManagerClosedError
from mcp_sessions.instruments import NOBODY
from mcp_sessions.loop_guard import LoopGuard
from mcp_sessions.patience import Patience

T = TypeVar("T")

_LONGEST_PAUSE = timedelta(milliseconds=100)
"""Between two attempts at rows that others hold: others find the connection free for half of the time."""


class Backend(ABC):
    """The database of one process: runs units of work, reports faults as ``DatabaseError``, never as a "no".

    Args:
        shown_url: the URL for people to read, without its password.
        patience: how long a call may take at most; what takes longer goes on, and its caller is told so.
        lock_patience: how long a unit of work may wait for rows that another transaction holds.

    Attributes:
        dialect: SQLAlchemy's name of the engine, which statements are built for.
        reads_are_cancellable: whether a hot read costs nothing where its caller is cancelled.
        instruments: who is told what happens, by whatever works on this database; set before anything does.
    """

    dialect: ClassVar[str]
    reads_are_cancellable: ClassVar[bool]

    def __init__(self, shown_url: str, patience: timedelta, lock_patience: timedelta) -> None:
        self.shown_url = shown_url
        self.instruments = NOBODY
        self._patience = patience.total_seconds()
        self._lock_patience = lock_patience
        self._guard = LoopGuard()
        self._statements: list[HotStatement] = []
        self._reporting = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work that only reads; a lost connection is tried again once, on a new one."""
        self.require_open()
        return await self._finished(self._read(unit))

    async def report(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work that may read much, like ``read``: one at a time, so that others find a connection."""
        self.require_open()
        return await self._finished(self._one_by_one(unit))

    async def write(
        self, unit: Callable[[Connection], T], *, repeatable: bool = False, lock_patience: timedelta | None = None
    ) -> T:
        """Run a unit of work in one transaction and commit it.

        Where another transaction holds a row that it needs, it gives its connection back and is tried again, for as
        long as ``lock_patience`` says, by default the time of a statement.

        ``repeatable``: running it twice is as good as once, so it is tried again, once, where the connection was
        lost and nobody knows whether it was committed.

        Raises:
            DatabaseHeldError: the row was not free in time; nothing was changed.
            DatabaseError: the database failed.
        """
        self.require_open()
        patience = Patience(
            self._lock_patience if lock_patience is None else lock_patience, longest_pause=_LONGEST_PAUSE
        )
        return await self._finished(self._once_free(partial(self._write, unit), patience, repeatable=repeatable))

    def hot_statement(
        self,
        statement: ClauseElement,
        durations: Mapping[str, timedelta],
        *,
        writes: bool = False,
        repeatable: bool = True,
        lock_timeout: timedelta | None = None,
    ) -> HotStatement:
        """Return a statement that requests wait for, run with the same durations each time; closed with the backend.

        ``lock_timeout`` bounds each of its waits for a lock, where the engine has locks of rows.
        """
        hot = HotStatement(
            statement,
            durations,
            self._preparer(writes=writes, lock_timeout=lock_timeout),
            engine=self._hot_engine,
            shown_url=self.shown_url,
            repeatable=repeatable,
        )
        self._statements.append(hot)
        return hot

    @abstractmethod
    async def give_way(self) -> None:
        """Let others write between two batches of much work."""

    @abstractmethod
    def wake_ups(self) -> WakeUps:
        """Return how this database wakes up workers that wait for messages."""

    @property
    @abstractmethod
    def connections_in_use(self) -> int:
        """How many connections are in use right now, besides those that hot statements keep at hand."""

    async def close(self) -> None:
        """Wait for the units of work that are running, then close every connection; idempotent."""
        self.require_here()
        self._closed = True
        if self._running:
            await asyncio.wait(self._running)
        for statement in self._statements:
            await statement.close()
        await self._dispose()

    def deadline(self) -> float:
        """Return until when, by the event loop's clock, a call that is made now may take; raise like ``require_open``.

        It has the time that it takes to reach the database and the time of a statement, both as set, however many
        statements and calls stand before it.
        """
        loop = self._guard.loop()
        if self._closed:
            self.require_open()
        return loop.time() + self._patience

    def require_here(self) -> None:
        """Raise ``ManagerElsewhereError`` in another event loop or process than the one that opened the database."""
        self._guard.loop()

    def require_open(self) -> None:
        """Raise ``ManagerClosedError`` once the database was closed, or like ``require_here``."""
        self.require_here()
        if self._closed:
            raise ManagerClosedError("the database was closed; use the manager inside its 'async with'")

    @property
    @abstractmethod
    def _hot_engine(self) -> AsyncEngine:
        """The engine that hot statements are compiled for, and that opens the connections that they keep."""

    @abstractmethod
    async def _read(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work that only reads."""

    @abstractmethod
    async def _write(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work in one transaction, once."""

    @abstractmethod
    def _preparer(self, *, writes: bool, lock_timeout: timedelta | None) -> Prepare:
        """Return what makes hot statements ready to run."""

    @abstractmethod
    async def _dispose(self) -> None:
        """Close every connection."""

    async def _twice(self, attempt: Callable[[], Coroutine[Any, Any, T]], *, repeatable: bool) -> T:
        return await attempted_twice(attempt, self.shown_url, repeatable=repeatable)

    async def _one_by_one(self, unit: Callable[[Connection], T]) -> T:
        async with self._reporting:
            return await self._read(unit)

    async def _once_free(
        self, attempt: Callable[[], Coroutine[Any, Any, T]], patience: Patience, *, repeatable: bool
    ) -> T:
        while True:
            try:
                return await self._twice(attempt, repeatable=repeatable)
            except DatabaseHeldError:
                if not await patience.pause():
                    raise

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

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a cancelled caller does not ask for it any more
