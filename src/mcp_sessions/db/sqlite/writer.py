"""SQLite's one writer of a process: a connection in a thread of its own, where each transaction runs in one go.

On an asynchronous connection every step of a transaction is a way to a thread and back: to begin, for each statement,
to commit. Here the whole of it is one, and the thread's queue is the order of a process's writers.

Between processes SQLite knows no order. Its busy handler looks ever more seldom whether the file is free, up to a
tenth of a second apart, and would hardly ever find it so beside a busy process; the writer looks every millisecond.
How long it may look is counted from when the work was handed in: what stands in the queue waits only once.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, event

T = TypeVar("T")

_LOOK_SECONDS = 0.001


class WriterThread:
    """Runs transactions one at a time, each with its own deadline, a moment of ``time.monotonic()``.

    Until then it waits for other processes, and for those in front of it; where they took all its time, it looks
    whether the file is free, once. Without a deadline the work has ``patience`` seconds from when it was handed in.
    ``check`` is called after each commit: where it raises, what was written is not acknowledged. ``is_busy`` tells
    whether a transaction is under way.
    """

    def __init__(self, engine: Engine, patience: float, check: Callable[[Connection], None]) -> None:
        self._engine = engine
        self._patience = patience
        self._check = check
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mcp-sessions writer")
        self._kept: Connection | None = None
        self._is_disposed = False
        self._deadline = 0.0  # of the work that the thread is at
        self.is_busy = False
        event.listen(engine, "begin", self._begin)

    async def run(self, unit: Callable[[Connection], T], *, deadline: float | None = None) -> T:
        """Run a unit of work and commit it."""
        return await self._in_thread(partial(self._committed, unit, self._moment(deadline)))

    async def fetch(
        self, text: str, arguments: Sequence[Any], *, deadline: float | None = None
    ) -> Sequence[Sequence[Any]]:
        """Run one statement of the driver's, which is a transaction by itself, and return its rows."""
        return await self._in_thread(partial(self._fetched, text, arguments, self._moment(deadline)))

    async def dispose(self) -> None:
        """Close the connection, and end the thread; idempotent."""
        if not self._is_disposed:
            self._is_disposed = True
            await self._in_thread(self._drop_connection)
            self._thread.shutdown(wait=False)

    def _moment(self, deadline: float | None) -> float:
        return time.monotonic() + self._patience if deadline is None else deadline

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _committed(self, unit: Callable[[Connection], T], deadline: float) -> T:
        self._deadline = deadline
        with self._connection() as connection:
            with connection.begin():
                result = unit(connection)
            self._check(connection)
        return result

    def _fetched(self, text: str, arguments: Sequence[Any], deadline: float) -> Sequence[Sequence[Any]]:
        self._deadline = deadline
        with self._connection() as connection:
            rows = self._once_free(lambda: _driver_of(connection).execute(text, arguments).fetchall())
            self._check(connection)
        return rows

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        self.is_busy = True
        try:
            self._kept = self._kept or self._engine.connect()
            yield self._kept
        except BaseException:
            self._drop_connection()  # whatever state it is in, the next one gets another one
            raise
        finally:
            self.is_busy = False

    def _drop_connection(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    def _begin(self, connection: Connection) -> None:
        self._once_free(lambda: _driver_of(connection).execute("BEGIN IMMEDIATE"))

    def _once_free(self, write: Callable[[], T]) -> T:
        while True:
            try:
                return write()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > self._deadline:
                    raise
            time.sleep(_LOOK_SECONDS)


def _driver_of(connection: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.driver_connection)
