"""This package: a manager with its default settings, and one that records every use."""

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, ClassVar, Self

from benchmarks.contenders import table
from benchmarks.contenders.base import POOL_SIZE, Contender, Operation, migrate, require
from benchmarks.population import known_client
from mcp_sessions import SessionManager


class Ours(Contender):
    """Calls of ``SessionManager``."""

    name: ClassVar[str] = "mcp-sessions"
    settings: ClassVar[str] = f"pool of {POOL_SIZE}, default settings; touch_interval=0 where every call touches"

    async def __aenter__(self) -> Self:
        await migrate(self.url)
        self._open = AsyncExitStack()
        self._manager = await self._opened()
        self._touching = await self._opened(touch_interval=timedelta(0))
        return self

    async def _opened(self, **settings: Any) -> SessionManager:
        opening = SessionManager.open(self.url, scheduled_cleanup=False, pool_size=POOL_SIZE, **settings)
        return await self._open.enter_async_context(opening)

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def fill(self, count: int) -> None:
        await table.fill(self.url, count)

    async def prepare(self, operation: Operation) -> None:
        if operation is Operation.RESUME:
            await table.spread_activity(self.url)

    async def resume_touching(self, number: int) -> None:
        one = known_client(number)
        require(await self._touching.resume_session(one.session_id, one.owner))

    async def resume(self, number: int) -> None:
        one = known_client(number)
        require(await self._manager.resume_session(one.session_id, one.owner))

    async def create(self, number: int) -> None:
        owner = known_client(number).owner
        await self._manager.create_session(
            tenant_id=owner.tenant_id, client_id=owner.client_id, issuer=owner.issuer, subject=owner.subject
        )
