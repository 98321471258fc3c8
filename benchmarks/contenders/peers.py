"""What people use today: mcp-persist's session registry, py-key-value-aio's Postgres store, and Redis."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import aiosqlite
import asyncpg
from key_value.aio.stores.postgresql import PostgreSQLStore
from mcp_persist import session_registry_for
from mcp_persist.postgres import PostgresEventStore
from mcp_persist.sqlite import SQLiteEventStore
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.contenders.base import IDLE_SECONDS, POOL_SIZE, Operation, SessionContender, require
from benchmarks.population import client, known_client, session_id


def _context(number: int) -> dict[str, Any]:
    owner = known_client(number).owner
    return {"client_id": owner.client_id, "issuer": owner.issuer, "subject": owner.subject}


class McpPersist(SessionContender):
    """The session registry of mcp-persist, as its session manager uses it: get, compare the owner, touch."""

    name: ClassVar[str] = "mcp-persist"
    settings: ClassVar[str] = (
        f"2.2 session registry, get and touch; Postgres: asyncpg pool of {POOL_SIZE}; "
        "SQLite: its one connection, WAL, synchronous=FULL"
    )

    async def __aenter__(self) -> Self:
        if self.is_sqlite:
            self._connection = await aiosqlite.connect(self.sqlite_file)
            await self._connection.execute("PRAGMA synchronous=FULL")
            store: Any = SQLiteEventStore(self._connection)
        else:
            self._pool = await asyncpg.create_pool(self.url, min_size=POOL_SIZE, max_size=POOL_SIZE)
            store = PostgresEventStore(self._pool)
        await store.initialize()
        self._registry = session_registry_for(store)
        await self._registry.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await (self._connection if self.is_sqlite else self._pool).close()

    async def fill(self, count: int) -> None:
        now = time.time()
        rows = ((client(n).session_id, now, now, json.dumps(_context(n), sort_keys=True)) for n in range(count))
        names = ("session_id", "created_at", "last_seen_at", "owner")
        if self.is_sqlite:
            insert = f"INSERT INTO mcp_sessions ({', '.join(names)}) VALUES (?, ?, ?, ?)"
            await self._connection.executemany(insert, rows)
            await self._connection.commit()
            await self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            await self._pool.execute("ALTER TABLE mcp_sessions ALTER terminated SET DEFAULT false")
            await self._pool.copy_records_to_table(
                "mcp_sessions", records=[(*row[:3], False, row[3]) for row in rows],
                columns=("session_id", "created_at", "last_seen_at", "terminated", "owner"),
            )  # fmt: skip
            await self._pool.execute("VACUUM ANALYZE mcp_sessions")

    async def prepare(self, operation: str, numbers: Sequence[int]) -> None:  # noqa: ARG002 - nothing is due
        if operation == Operation.RESUME and self.is_sqlite:
            await self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
        elif operation == Operation.RESUME:
            await self._pool.execute("VACUUM mcp_sessions")

    async def resume_touching(self, number: int) -> None:
        record = await self._registry.get(session_id(number))
        require(record is not None and not record.terminated and record.owner == _context(number))
        await self._registry.touch(session_id(number))

    async def create(self, number: int) -> None:
        await self._registry.register(secrets.token_urlsafe(32), owner=_context(number))


class KeyValueStore(SessionContender):
    """py-key-value-aio's Postgres store: get the value, compare the owner, put it back with a new time to live."""

    name: ClassVar[str] = "py-key-value-aio"
    settings: ClassVar[str] = f"PostgreSQLStore on an asyncpg pool of {POOL_SIZE}, get and put with a TTL"

    async def __aenter__(self) -> Self:
        self._pool = await asyncpg.create_pool(self.url, min_size=POOL_SIZE, max_size=POOL_SIZE)
        self._store = PostgreSQLStore(pool=self._pool, default_collection="sessions")
        await self._store.setup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()
        await self._pool.close()

    async def fill(self, count: int) -> None:
        await self._store.put(session_id(0), _context(0), ttl=IDLE_SECONDS)
        rows = [("sessions", session_id(n), json.dumps(_context(n))) for n in range(1, count)]
        insert = """
            INSERT INTO kv_store (collection, key, value, ttl, created_at, expires_at)
            SELECT collection, key, value::jsonb, $4, now(), now() + make_interval(secs => $4)
            FROM unnest($1::text[], $2::text[], $3::text[]) AS given (collection, key, value)
        """
        columns = [list(column) for column in zip(*rows, strict=True)]
        await self._pool.execute(insert, *columns, float(IDLE_SECONDS))
        await self._pool.execute("VACUUM ANALYZE kv_store")

    async def prepare(self, operation: str, numbers: Sequence[int]) -> None:  # noqa: ARG002 - nothing is due
        if operation == Operation.RESUME:
            await self._pool.execute("VACUUM kv_store")

    async def resume_touching(self, number: int) -> None:
        value = await self._store.get(session_id(number))
        require(value == _context(number))
        await self._store.put(session_id(number), _context(number), ttl=IDLE_SECONDS)

    async def create(self, number: int) -> None:
        await self._store.put(secrets.token_urlsafe(32), _context(number), ttl=IDLE_SECONDS)


class _RedisGetEx(SessionContender):
    async def __aenter__(self) -> Self:
        pool = BlockingConnectionPool.from_url(self.url, max_connections=POOL_SIZE, timeout=60)
        self._redis = Redis.from_pool(pool)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    async def fill(self, count: int) -> None:
        for start in range(0, count, 10_000):
            pipeline = self._redis.pipeline(transaction=False)
            for number in range(start, min(count, start + 10_000)):
                pipeline.set(f"session:{session_id(number)}", json.dumps(_context(number)), ex=IDLE_SECONDS)
            await pipeline.execute()

    async def resume_touching(self, number: int) -> None:
        value = await self._redis.getex(f"session:{session_id(number)}", ex=IDLE_SECONDS)
        require(value is not None and json.loads(value) == _context(number))

    async def create(self, number: int) -> None:
        value = json.dumps(_context(number))
        require(await self._redis.set(f"session:{secrets.token_urlsafe(32)}", value, ex=IDLE_SECONDS, nx=True))


class RedisEverySecond(_RedisGetEx):
    """Redis as it is mostly run: what was acknowledged in the last second may be lost."""

    name: ClassVar[str] = "redis-py"
    settings: ClassVar[str] = (
        f"GETEX, with hiredis, pool of {POOL_SIZE}; server: appendonly yes, appendfsync everysec: NOT as durable as "
        "the others"
    )


class RedisAlways(_RedisGetEx):
    """Redis with the durability of the others."""

    name: ClassVar[str] = "redis-py, fsync always"
    settings: ClassVar[str] = f"GETEX, with hiredis, pool of {POOL_SIZE}; server: appendonly yes, appendfsync always"
