"""The rows behind a manager, reached by the plain driver of each engine: tests check by them, and age sessions."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from typing import Any

import asyncpg

from mcp_sessions.digests import digest_of
from mcp_sessions.records.sessions import Session

Row = dict[str, Any]

WAITING = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
"""Asks a Postgres whether anybody waits for a lock in this database."""


class Rows:
    """Reads and changes rows past the code under test; a statement on Postgres may take ``patience`` seconds."""

    def __init__(self, url: str, *, patience: float = 30) -> None:
        self.url = url
        self._patience = patience
        self.on_sqlite = url.startswith("sqlite")

    async def fetch(self, query: str) -> list[Row]:
        """Return the rows that a query gives."""
        if self.on_sqlite:
            return await asyncio.to_thread(self._run_on_sqlite, query)
        connection = await self._postgres()
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close(timeout=10)

    async def execute(self, statement: str) -> None:
        """Run a statement that gives no rows."""
        await self.fetch(statement)

    async def value(self, query: str) -> Any:
        """Return the one value that a query gives."""
        (row,) = await self.fetch(query)
        (value,) = row.values()
        return value

    async def session(self, session: str | bytes | Session) -> Row | None:
        """Return the row of a session, whole and as the engine has it; None where there is none."""
        rows = await self.fetch(f"SELECT * FROM sessions WHERE session_digest = {self._digest(session)}")
        return rows[0] if rows else None

    async def count(self, table: str = "sessions") -> int:
        """Count the rows of a table, expired sessions too."""
        count: int = await self.value(f"SELECT count(*) AS n FROM {table}")
        return count

    async def age(self, session: str | bytes | Session, by: timedelta) -> None:
        """Make a session older: everything that ever happened to it happened earlier by this much."""
        digest = self._digest(session)
        aged = await self._shift("sessions", -by, f"session_digest = {digest}")
        assert aged == 1, "there is no such row to age"

    async def age_all(self, by: timedelta, *, table: str = "sessions") -> None:
        """Make every row of a table older."""
        await self._shift(table, -by, "1 = 1")

    def among(self, sessions: Iterable[str | bytes | Session]) -> str:
        """Return the SQL condition that names the rows of these sessions."""
        return f"session_digest IN ({', '.join(self._digest(each) for each in sessions)})"

    @asynccontextmanager
    async def transaction(self, statement: str) -> AsyncIterator[None]:
        """Hold a transaction open that has run a statement, and roll it back at the end."""
        if self.on_sqlite:
            with closing(self._sqlite()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(statement)
                yield
        else:
            server = await self._postgres()
            try:
                await server.execute(f"BEGIN; {statement}")
                yield
            finally:
                await server.close(timeout=10)

    async def _shift(self, table: str, by: timedelta, where: str) -> int:
        columns = await self._time_columns(table)
        if self.on_sqlite:
            modifier = f"'{by.total_seconds():+.3f} seconds'"
            moved = [f"{name} = strftime('%Y-%m-%d %H:%M:%f', {name}, {modifier})" for name in columns]
        else:
            moved = [f"{name} = {name} + interval '{by.total_seconds()} seconds'" for name in columns]
        return len(await self.fetch(f"UPDATE {table} SET {', '.join(moved)} WHERE {where} RETURNING 1"))

    async def _time_columns(self, table: str) -> list[str]:
        if self.on_sqlite:
            query = f"SELECT name FROM pragma_table_info('{table}')"
        else:
            query = f"SELECT attname AS name FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
        return [row["name"] for row in await self.fetch(query) if row["name"].endswith("_at")]

    def _digest(self, session: str | bytes | Session) -> str:
        if isinstance(session, Session):
            session = session.digest
        digest = digest_of(session) if isinstance(session, str) else session
        return f"x'{digest.hex()}'" if self.on_sqlite else f"'\\x{digest.hex()}'::bytea"

    async def _postgres(self) -> Any:
        return await asyncpg.connect(self.url, timeout=10, command_timeout=self._patience, statement_cache_size=0)

    def _sqlite(self) -> sqlite3.Connection:
        return sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=10, isolation_level=None)

    def _run_on_sqlite(self, query: str) -> list[Row]:
        with closing(self._sqlite()) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]
