"""The raw drivers, asyncpg and aiosqlite: one statement a call, nothing around it."""

import asyncio
import hashlib
import secrets
import sqlite3
from datetime import timedelta
from typing import ClassVar, Self

import aiosqlite
import asyncpg

from benchmarks.contenders import table
from benchmarks.contenders.base import IDLE_SECONDS, POOL_SIZE, migrate, require
from benchmarks.population import known_client

_OWNED = " AND ".join(
    f"{name} IS NOT DISTINCT FROM ${position}"
    for position, name in enumerate(("tenant_id", "client_id", "issuer", "subject"), start=2)
)
_SHOWN = "session_digest, tenant_id, client_id, issuer, subject, created_at, last_activity_at, expires_at"
_POSTGRES_SELECT = f"SELECT {_SHOWN} FROM sessions WHERE session_digest = $1 AND {_OWNED} AND expires_at > now()"
_POSTGRES_TOUCH = f"""
    UPDATE sessions SET last_activity_at = greatest(last_activity_at, now()), expires_at = now() + $6::interval
    WHERE session_digest = $1 AND {_OWNED} AND expires_at > now() RETURNING {_SHOWN}
"""
_POSTGRES_INSERT = """
    INSERT INTO sessions (session_digest, tenant_id, client_id, issuer, subject,
                          created_at, last_activity_at, expires_at, cleanup_at)
    VALUES ($1, $2, $3, $4, $5, now(), now(), now() + $6::interval, now() + $6::interval)
"""
_WINDOW = timedelta(seconds=IDLE_SECONDS)


class Asyncpg(table.TableUser):
    """asyncpg, with connections that are held open and handed from caller to caller without being reset."""

    name: ClassVar[str] = "asyncpg"
    settings: ClassVar[str] = (
        f"{POOL_SIZE} held connections, prepared statements, autocommit, no reset between callers; "
        "touching: one UPDATE ... RETURNING; default: one SELECT; the trail's trigger fires on its INSERT as on ours"
    )

    async def __aenter__(self) -> Self:
        await migrate(self.url)
        self._idle: asyncio.LifoQueue[asyncpg.Connection[asyncpg.Record]] = asyncio.LifoQueue()
        self._held = [await asyncpg.connect(self.url) for _ in range(POOL_SIZE)]
        for connection in self._held:
            self._idle.put_nowait(connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._held:
            await connection.close()

    async def _row(self, statement: str, *parameters: object) -> object:
        connection = await self._idle.get()
        try:
            return await connection.fetchrow(statement, *parameters)
        finally:
            self._idle.put_nowait(connection)

    async def resume_touching(self, number: int) -> None:
        one = known_client(number)
        require(await self._row(_POSTGRES_TOUCH, one.digest, *one.parts, _WINDOW))

    async def resume(self, number: int) -> None:
        one = known_client(number)
        require(await self._row(_POSTGRES_SELECT, one.digest, *one.parts))

    async def create(self, number: int) -> None:
        digest = hashlib.sha256(secrets.token_urlsafe(32).encode()).digest()
        await self._row(_POSTGRES_INSERT, digest, *known_client(number).parts, _WINDOW)


_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
_THEN = f"strftime('%Y-%m-%d %H:%M:%f', 'now', '+{IDLE_SECONDS} seconds')"
_SQLITE_OWNED = "tenant_id IS ? AND client_id IS ? AND issuer IS ? AND subject IS ?"
_SQLITE_SELECT = f"SELECT {_SHOWN} FROM sessions WHERE session_digest = ? AND {_SQLITE_OWNED} AND expires_at > {_NOW}"
_SQLITE_TOUCH = f"""
    UPDATE sessions SET last_activity_at = max(last_activity_at, {_NOW}), expires_at = {_THEN}
    WHERE session_digest = ? AND {_SQLITE_OWNED} AND expires_at > {_NOW} RETURNING {_SHOWN}
"""
_SQLITE_INSERT = f"INSERT INTO sessions VALUES (?, ?, ?, ?, ?, {_NOW}, {_NOW}, {_THEN}, {_THEN}) RETURNING 1"


class Aiosqlite(table.TableUser):
    """aiosqlite with one connection, execute and fetch in one hop to its thread."""

    name: ClassVar[str] = "aiosqlite"
    settings: ClassVar[str] = (
        "one connection (SQLite has one writer), WAL, synchronous=FULL, SQLite's own cache and checkpoints, "
        "autocommit, execute and fetch in one thread hop; touching: one UPDATE ... RETURNING; default: one SELECT; "
        "the trail's trigger fires on its INSERT as on ours"
    )

    async def __aenter__(self) -> Self:
        await migrate(self.url)
        self._connection = await aiosqlite.connect(self.sqlite_file, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            await self._connection.execute_fetchall(f"PRAGMA {pragma}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def _rows(self, statement: str, *parameters: object) -> list[sqlite3.Row]:
        return list(await self._connection.execute_fetchall(statement, parameters))

    async def resume_touching(self, number: int) -> None:
        one = known_client(number)
        require(await self._rows(_SQLITE_TOUCH, one.digest, *one.parts))

    async def resume(self, number: int) -> None:
        one = known_client(number)
        require(await self._rows(_SQLITE_SELECT, one.digest, *one.parts))

    async def create(self, number: int) -> None:
        digest = hashlib.sha256(secrets.token_urlsafe(32).encode()).digest()
        await self._rows(_SQLITE_INSERT, digest, *known_client(number).parts)
