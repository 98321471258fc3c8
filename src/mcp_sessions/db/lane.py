"""The hot statements, run by the driver itself on a connection kept at hand.

For a single caller, a pool checkout and SQLAlchemy's handling of a result cost more than the round trip that they
wrap. So the statements of every request are written and compiled with SQLAlchemy like all others, but a lane hands
their text to the driver: one prepared statement on asyncpg, a read in the loop's own thread on aiosqlite. What writes
to SQLite goes to its one writer, in one piece. All else goes the ordinary way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import ClauseElement

from mcp_sessions.db.faults import FAULTS, is_lost_connection, is_rolled_back, translated
from mcp_sessions.db.sqlite.file_watch import FileWatch
from mcp_sessions.db.sqlite.quick_reads import QuickReads

Rows = Sequence[Sequence[Any]]
_Run = Callable[[Sequence[Any]], Awaitable[Rows]]


class Lane:
    """Runs one statement, for one caller at a time; one who is cancelled in the middle costs it its connection.

    The statement is a transaction by itself; ``repeatable`` says that running it twice is as good as once, so that it
    is tried again where the connection was lost and nobody knows what became of it. ``in_transaction`` puts each run
    between BEGIN and COMMIT all the same: a transaction-mode PgBouncer keeps one server connection for the steps of a
    statement only within a transaction. ``lock_timeout``, in seconds, bounds each wait for a lock. ``write``, where it
    is given, runs the statement instead of a connection kept here. ``watch`` is asked after each read of SQLite whether
    the file is still the one that was opened.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        statement: ClauseElement,
        constants: Mapping[str, Any],
        *,
        write: Callable[[str, Sequence[Any]], Awaitable[Rows]] | None,
        watch: FileWatch | None,
        shown_url: str,
        in_transaction: bool,
        repeatable: bool,
        lock_timeout: float | None = None,
    ) -> None:
        schemas = engine.get_execution_options().get("schema_translate_map")
        compiled = statement.compile(
            dialect=engine.dialect, schema_translate_map=schemas, render_schema_translate=schemas is not None
        )
        self._engine = engine
        self._text = str(compiled)
        self._order: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        self._constants = compiled.params | constants
        self._write = write
        self._watch = watch
        self._shown_url = shown_url
        self._in_transaction = in_transaction
        self._repeatable = repeatable
        self._lock_milliseconds = 0 if lock_timeout is None else max(1, int(lock_timeout * 1000))
        self._kept: AsyncConnection | None = None
        self._run: _Run | None = None

    async def fetch(self, parameters: dict[str, Any]) -> Rows:
        """Return the rows as the driver gives them.

        Raises:
            DatabaseError: the database failed.
        """
        named = self._constants | parameters
        arguments = [named[name] for name in self._order]
        if not self._repeatable:
            await asyncio.sleep(0)  # where the server has closed the connection, the loop gets to know of it first
        try:
            return await self._attempt(arguments)
        except FAULTS as fault:
            if not (is_rolled_back(fault) or (self._repeatable and is_lost_connection(fault))):
                raise translated(fault, self._shown_url) from fault
        try:
            return await self._attempt(arguments)
        except FAULTS as fault:
            raise translated(fault, self._shown_url) from fault

    @property
    def keeps_a_connection(self) -> bool:
        """Whether a connection is kept at hand."""
        return self._kept is not None

    async def close(self) -> None:
        """Give the connection back."""
        kept, self._kept, self._run = self._kept, None, None
        if kept is not None:
            await kept.close()

    async def _attempt(self, arguments: Sequence[Any]) -> Rows:
        try:
            run = self._run or await self._connected()
            rows = await run(arguments)
            if self._watch is not None and self._kept is not None:
                self._watch.check_read(self._kept.info)
        except BaseException:
            kept, self._kept, self._run = self._kept, None, None
            if kept is not None:
                await kept.invalidate()  # whatever state it is in, the next call gets another one
                await kept.close()
            raise
        return rows

    async def _connected(self) -> _Run:
        self._run = await self._way_to_run()
        return self._run

    async def _way_to_run(self) -> _Run:
        text = self._text
        if self._write is not None:
            return partial(self._write, text)
        self._kept = await self._engine.connect()
        driver: Any = (await self._kept.get_raw_connection()).driver_connection
        if self._engine.dialect.name == "sqlite":
            return QuickReads(driver, text).fetch
        limit = f"lock_timeout TO {self._lock_milliseconds}" if self._lock_milliseconds else ""
        if self._in_transaction:
            return partial(_fetch_in_transaction, driver, limit and f"SET LOCAL {limit}", text)
        # The best plan is the same for one digest and for many: to plan each run costs more than to run it.
        await driver.execute("SET plan_cache_mode TO force_generic_plan")
        if limit:
            await driver.execute(f"SET {limit}")
        return lambda arguments: driver.fetch(text, *arguments)


async def _fetch_in_transaction(driver: Any, first: str, text: str, arguments: Sequence[Any]) -> Rows:
    async with driver.transaction():
        if first:
            await driver.execute(first)
        rows: Rows = await driver.fetch(text, *arguments)
    return rows
