"""The state of FastMCP's sessions, over the stores of py-key-value that servers with several workers use.

FastMCP has no atomic update: whoever counts gets and sets. Its own ``set`` reads and writes the session's whole state.
"""

from typing import Any, ClassVar, Self

import asyncpg
from fastmcp.server.server import StateValue
from fastmcp.server.sessions import Session, session_storage_key
from key_value.aio.adapters.pydantic import PydanticAdapter
from key_value.aio.stores.postgresql import PostgreSQLStore
from key_value.aio.stores.redis import RedisStore
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.contenders.base import CART, POOL_SIZE, StateContender, for_each, require, settle
from benchmarks.population import known_client


class _FastMcpState(StateContender):
    _values: PydanticAdapter[StateValue]

    def _over(self, store: Any) -> None:
        self._values = PydanticAdapter(key_value=store, pydantic_model=StateValue, default_collection="fastmcp_state")

    async def fill(self, count: int) -> None:
        await self._open_session(0)  # a store makes its tables as it is first used
        await for_each(self._open_session, count)

    async def get(self, number: int) -> None:
        require(await self._session(number).get("cart") == CART)

    async def set(self, number: int) -> None:
        await self._session(number).set("cart", CART)

    async def update(self, number: int) -> None:
        session = self._session(number)
        await session.set("visits", await session.get("visits", 0) + 1)

    async def visits(self, number: int) -> int:
        return int(await self._session(number).get("visits"))

    def _session(self, number: int) -> Session:
        one = known_client(number)
        return Session(store=self._values, principal=one.owner.subject, session_id=one.session_id)

    async def _open_session(self, number: int) -> None:
        """Store at once what ``create_session`` and two calls of ``set`` leave."""
        one = known_client(number)
        whole = StateValue(value={"created_at": 0.0, "state": {"cart": CART, "visits": 0}})
        await self._values.put(key=session_storage_key(one.owner.subject, one.session_id), value=whole)


class FastMcpOverPostgres(_FastMcpState):
    """FastMCP's ``Session`` over py-key-value's Postgres store."""

    name: ClassVar[str] = "FastMCP over Postgres"
    settings: ClassVar[str] = f"Session over PostgreSQLStore, asyncpg pool of {POOL_SIZE}; an update gets, then sets"

    async def __aenter__(self) -> Self:
        self._pool = await asyncpg.create_pool(self.url, min_size=POOL_SIZE, max_size=POOL_SIZE)
        self._over(PostgreSQLStore(pool=self._pool))
        return self

    async def fill(self, count: int) -> None:
        await super().fill(count)
        await settle(self.url, "kv_store")

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()


class _FastMcpOverRedis(_FastMcpState):
    async def __aenter__(self) -> Self:
        pool = BlockingConnectionPool.from_url(self.url, max_connections=POOL_SIZE, timeout=60, decode_responses=True)
        self._redis = Redis.from_pool(pool)
        self._over(RedisStore(client=self._redis))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()


class FastMcpOverRedis(_FastMcpOverRedis):
    """The same over its Redis store, as Redis is mostly run: what was acknowledged in the last second may be lost."""

    name: ClassVar[str] = "FastMCP over Redis"
    settings: ClassVar[str] = (
        f"Session over RedisStore, hiredis, pool of {POOL_SIZE}; server: appendonly yes, appendfsync everysec: NOT as "
        "durable as the others; an update gets, then sets"
    )


class FastMcpOverRedisAlways(_FastMcpOverRedis):
    """The same with the durability of the others."""

    name: ClassVar[str] = "FastMCP over Redis, fsync always"
    settings: ClassVar[str] = f"the same, pool of {POOL_SIZE}; server: appendonly yes, appendfsync always"
