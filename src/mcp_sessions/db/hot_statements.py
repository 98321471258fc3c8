"""The statements of every request, run by the driver itself on a connection kept at hand.

For a single caller, a pool checkout and SQLAlchemy's handling of a result cost more than the round trip that they
wrap. So these statements are written and compiled with SQLAlchemy like all others, but their text is handed to the
driver: as a prepared statement on asyncpg, as a read in the loop's own thread on SQLite. What writes to SQLite goes to
its one writer, in one piece.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import ClauseElement

from mcp_sessions.db.faults import attempted_twice

Rows = Sequence[Sequence[Any]]


class Prepared(Protocol):
    """A statement that is ready to run, for one caller at a time."""

    async def run(self, arguments: Sequence[Any]) -> Rows:
        """Run it and return the rows as the driver gives them."""

    async def discard(self) -> None:
        """Let go of it after a fault, in whatever state it is."""

    async def close(self) -> None:
        """Let go of it."""


Prepare = Callable[[str], Awaitable[Prepared]]
"""Makes a statement of this text ready to run."""


class _Compiled(NamedTuple):
    text: str
    order: Sequence[str]
    constants: dict[str, Any]


class HotStatement:
    """One statement, for one caller at a time; one who is cancelled in the middle costs it its connection.

    It is a transaction by itself; ``repeatable`` says that running it twice is as good as once, so that it is tried
    again where the connection was lost and nobody knows what became of it.
    """

    def __init__(
        self,
        statement: ClauseElement,
        durations: Mapping[str, timedelta],
        prepare: Prepare,
        *,
        engine: AsyncEngine,
        shown_url: str,
        repeatable: bool,
    ) -> None:
        self._statement = statement
        self._engine = engine
        self._durations = durations
        self._prepare = prepare
        self._shown_url = shown_url
        self._repeatable = repeatable
        self._prepared: Prepared | None = None

    async def fetch(self, parameters: dict[str, Any]) -> Rows:
        """Return the rows as the driver gives them.

        Raises:
            DatabaseError: the database failed.
        """
        named = self._compiled.constants | parameters
        arguments = [named[name] for name in self._compiled.order]
        if not self._repeatable:
            await asyncio.sleep(0)  # where the server has closed the connection, the loop gets to know of it first
        return await attempted_twice(lambda: self._attempt(arguments), self._shown_url, repeatable=self._repeatable)

    @cached_property
    def _compiled(self) -> _Compiled:
        """Made at the first use: a process that opens a database, to run one command or to serve, needs few of them."""
        schemas = self._engine.get_execution_options().get("schema_translate_map")
        compiled = self._statement.compile(
            dialect=self._engine.dialect, schema_translate_map=schemas, render_schema_translate=schemas is not None
        )
        order: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        binds = getattr(compiled, "binds", {})
        bound = {
            name: binds[name].type.process_bind_param(each, self._engine.dialect)
            for name, each in self._durations.items()
        }
        return _Compiled(str(compiled), order, compiled.params | bound)

    async def close(self) -> None:
        """Give back what was kept."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await prepared.close()

    async def _attempt(self, arguments: Sequence[Any]) -> Rows:
        try:
            if self._prepared is None:
                self._prepared = await self._prepare(self._compiled.text)
            return await self._prepared.run(arguments)
        except BaseException:
            prepared, self._prepared = self._prepared, None
            if prepared is not None:
                await prepared.discard()
            raise
