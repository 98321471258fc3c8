"""This package: a manager with its default settings, one that records every use, and one without an audit trail."""

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, ClassVar, Self

from sqlalchemy import Insert, Select, false

from benchmarks.contenders import table
from benchmarks.contenders.base import POOL_SIZE, migrate, require
from benchmarks.population import known_client
from mcp_sessions import SessionManager
from mcp_sessions.db.statements import ends, events
from mcp_sessions.db.statements.events import insert_ends


class Ours(table.TableUser):
    """Calls of ``SessionManager``."""

    name: ClassVar[str] = "mcp-sessions"
    settings: ClassVar[str] = (
        f"pool of {POOL_SIZE}, default settings (SQLite: 8 MB of cache a connection, the writer's temporary store in "
        "memory, checkpoints in the background or at 65,536 pages); touch_interval=0 where every call touches"
    )

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

    async def resume_touching(self, number: int) -> None:
        one = known_client(number)
        require(await self._touching.resume_session(one.session_id, one.owner))

    async def resume(self, number: int) -> None:
        one = known_client(number)
        require(await self._manager.resume_session(one.session_id, one.owner))

    async def create(self, number: int) -> None:
        await self._created(number)

    async def create_and_end(self, number: int) -> None:
        require(await self._manager.terminate_session(await self._created(number)))

    async def _created(self, number: int) -> str:
        owner = known_client(number).owner
        return await self._manager.create_session(
            tenant_id=owner.tenant_id, client_id=owner.client_id, issuer=owner.issuer, subject=owner.subject
        )


class OursWithoutTrail(Ours):
    """The same, without the triggers and statements that write the audit trail: to see what it costs."""

    name: ClassVar[str] = "without the trail"
    settings: ClassVar[str] = "the same, with its triggers dropped, and an end's event not written"

    async def fill(self, count: int) -> None:
        await super().fill(count)
        await table.stop_trail(self.url)

    async def __aenter__(self) -> Self:
        for module in (events, ends):  # there is no such setting
            setattr(module, insert_ends.__name__, _insert_none)
        return await super().__aenter__()


def _insert_none(dialect: str, rows: Select[Any]) -> Insert:
    """The statement that records ends, with none to record."""
    return insert_ends(dialect, rows.where(false()))
