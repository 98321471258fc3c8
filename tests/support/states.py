"""State in tests: sessions with it, and every call that there is on it."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from mcp_sessions import Owner, Session, SessionManager, SessionState

CALLS: dict[str, Callable[[SessionState], Awaitable[Any]]] = {
    "get": lambda state: state.get("cart"),
    "set": lambda state: state.set("cart", ["stolen"]),
    "update": lambda state: state.update("cart", lambda cart: [*(cart or []), "stolen"]),
    "delete": lambda state: state.delete("cart"),
    "all": lambda state: state.all(),
    "clear": lambda state: state.clear(),
    "sizes": lambda state: state.sizes(),
}
"""Every call on the state of a session."""


async def opened(manager: SessionManager, owner: Owner | None = None, *, session_id: str | None = None) -> Session:
    """Open a session, and return it as its owner gets it."""
    owner = owner or Owner()
    session_id = await manager.create_session(session_id, **asdict(owner))
    session = await manager.resume_session(session_id, owner)
    assert session is not None
    return session


def one_more(number: int | None) -> int:
    """Count on."""
    return (number or 0) + 1
