"""The public names: what they take, what they return, and what must not pass."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Literal, assert_type

import mcp_sessions
from mcp_sessions import (
    TRUSTED,
    DurableSessions,
    EventFilter,
    EventPage,
    Handshake,
    Owner,
    Session,
    SessionEvent,
    SessionManager,
    SessionPage,
    Statistics,
    Trusted,
)
from mcp_sessions.asgi import OwnerOf, bearer_owner


async def lives(manager: SessionManager, session_id: str, digest: bytes) -> None:
    """Absent is an answer that the types tell of."""
    owner = Owner(tenant_id="acme", client_id="c1")
    assert_type(await manager.create_session(tenant_id="acme"), str)
    assert_type(await manager.resume_session(session_id, owner=owner), Session | None)
    assert_type(await manager.touch_session(session_id), bool)
    assert_type(await manager.is_session_valid(session_id), bool)
    assert_type(await manager.get_session_metadata(session_id), Session | None)
    assert_type(await manager.get_handshake(digest), Handshake | None)
    assert_type(await manager.terminate_session(session_id, owner=owner, reason="logout"), bool)
    assert_type(await manager.terminate_session(session_id, owner=TRUSTED), bool)
    assert_type(await manager.terminate_digest(digest), bool)
    assert_type(await manager.touch_digests({digest}), frozenset[bytes])
    assert_type(await manager.live_digests([digest]), frozenset[bytes])
    assert_type(await manager.terminate_sessions(tenant_id="acme"), int)
    assert_type(await manager.clear_all_sessions(), int)

    await manager.create_session(owner)  # type: ignore[arg-type]
    await manager.resume_session(session_id)  # type: ignore[call-arg]
    await manager.resume_session(session_id, owner=TRUSTED)  # type: ignore[arg-type]
    await manager.resume_session(session_id, owner=None)  # type: ignore[arg-type]
    await manager.resume_session(session_id, owner="trusted")  # type: ignore[arg-type]
    await manager.terminate_session(session_id, owner=None)  # type: ignore[arg-type]
    await manager.touch_session(digest)  # type: ignore[arg-type]
    await manager.get_handshake(session_id)  # type: ignore[arg-type]
    (await manager.resume_session(session_id, owner=owner)).owner  # type: ignore[union-attr]
    Owner(tenant="acme")  # type: ignore[call-arg]


async def questions(manager: SessionManager) -> None:
    """Pages hold what they are pages of."""
    sessions = await manager.list_sessions(tenant_id="acme", limit=10)
    assert_type(sessions, SessionPage)
    assert_type(iter(sessions), Iterator[Session])
    assert_type(sessions.next_cursor, str | None)
    assert_type(await manager.find_sessions("0a1b"), list[Session])
    assert_type(await manager.get_active_session_count(), int)
    events = await manager.list_events(EventFilter(kinds=("created",), since=timedelta(hours=1)))
    assert_type(events, EventPage)
    assert_type(iter(events), Iterator[SessionEvent])
    assert_type(manager.follow_events(last=10), AsyncIterator[list[SessionEvent]])
    assert_type(await manager.stats(), Statistics)

    EventFilter(kinds=("opened",))  # type: ignore[arg-type]
    EventFilter(since="1h")  # type: ignore[arg-type]
    await manager.list_sessions("acme")  # type: ignore[call-arg]


def trusted(owner: Owner | Trusted) -> None:
    """``TRUSTED`` is told apart from an owner by ``is``."""
    assert_type(TRUSTED, Literal[Trusted.TRUSTED])
    if owner is TRUSTED:
        assert_type(owner, Literal[Trusted.TRUSTED])
    else:
        assert_type(owner, Owner)


def lazy() -> None:
    """``DurableSessions`` is imported when asked for, and typed all the same; no other name is made up."""
    assert_type(mcp_sessions.DurableSessions, type[DurableSessions])
    assert_type(bearer_owner("tenant"), OwnerOf)

    mcp_sessions.DurableSession  # type: ignore[attr-defined]


def frozen(session: Session, owner: Owner) -> None:
    """Records do not change."""
    assert_type(session.digest, bytes)
    session.digest = b""  # type: ignore[misc]
    owner.tenant_id = "acme"  # type: ignore[misc]
