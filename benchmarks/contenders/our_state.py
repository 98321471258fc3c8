"""The state of this package's sessions."""

from contextlib import AsyncExitStack
from typing import ClassVar, Self

from benchmarks.contenders.base import CART, POOL_SIZE, StateContender, for_each, migrate, require, settle
from benchmarks.population import client
from mcp_sessions import Session, SessionManager, SessionState


class OurState(StateContender):
    """Calls of ``SessionState``."""

    name: ClassVar[str] = "mcp-sessions"
    settings: ClassVar[str] = f"state of sessions, pool of {POOL_SIZE}, default settings; an update is one atomic call"

    async def __aenter__(self) -> Self:
        await migrate(self.url)
        self._open = AsyncExitStack()
        opening = SessionManager.open(self.url, scheduled_cleanup=False, pool_size=POOL_SIZE)
        self._manager = await self._open.enter_async_context(opening)
        self._sessions: dict[int, Session] = {}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def fill(self, count: int) -> None:
        for act in (self._open_session, self.set, self.update):
            await for_each(act, count)
        if not self.is_sqlite:
            await settle(self.url, "sessions", "session_state")

    async def get(self, number: int) -> None:
        require(await self._state(number).get("cart") == CART)

    async def set(self, number: int) -> None:
        await self._state(number).set("cart", CART)

    async def update(self, number: int) -> None:
        await self._state(number).update("visits", lambda visits: (visits or 0) + 1)

    async def visits(self, number: int) -> int:
        return int(await self._state(number).get("visits"))

    def _state(self, number: int) -> SessionState:
        return self._manager.state(self._sessions[number])

    async def _open_session(self, number: int) -> None:
        one = client(number)
        owner = one.owner
        await self._manager.create_session(
            one.session_id,
            tenant_id=owner.tenant_id,
            client_id=owner.client_id,
            issuer=owner.issuer,
            subject=owner.subject,
        )
        session = await self._manager.resume_session(one.session_id, owner)
        require(session)
        assert session is not None  # noqa: S101 - for type checkers
        self._sessions[number] = session
