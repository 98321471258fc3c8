"""Sessions that are created for a reason of their own: the trail tells it, and all else is as for any session."""

import asyncio

import pytest

from mcp_sessions import Handshake, InvalidInputError, Owner, SessionExistsError, SessionManager
from mcp_sessions.records.events import CREATED_BY_TOOL
from tests.support.managers import OpenManager
from tests.support.owners import ACME
from tests.support.rows import Rows
from tests.support.trail import Trail, owner_in


async def created(manager: SessionManager, session_id: str | None = None, *, reason: str = CREATED_BY_TOOL) -> str:
    """Create a session for a reason."""
    return await manager.create_session(
        session_id,
        tenant_id=ACME.tenant_id,
        client_id=ACME.client_id,
        issuer=ACME.issuer,
        subject=ACME.subject,
        reason=reason,
    )


async def test_the_trail_tells_the_reason(manager: SessionManager, trail: Trail) -> None:
    """The event of the creation has the reason and the owner, once; the session is one like any other."""
    handle, other = await created(manager), await created(manager, reason="created")
    assert [(event["kind"], event["reason"]) for event in await trail.events(handle)] == [("created", CREATED_BY_TOOL)]
    assert [event["reason"] for event in await trail.events(other)] == ["created"]
    assert owner_in((await trail.events(handle))[0]) == ACME
    session = await manager.resume_session(handle, ACME)
    assert session is not None
    assert await manager.resume_session(handle, Owner()) is None
    assert session.last_activity_at == session.created_at
    usual = await manager.resume_session(other, ACME)
    assert usual is not None
    assert session.expires_at - session.created_at == usual.expires_at - usual.created_at
    assert await manager.found_by_handle([session, usual]) == {session.digest}
    assert await manager.found_by_handle([]) == frozenset()
    stats = await manager.stats()
    assert (stats.live, stats.live_by_handle) == (2, 1)
    assert await manager.terminate_session(handle, owner=ACME)
    await trail.agrees_with_the_table()


async def test_a_taken_id_leaves_no_trace(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """Where the id is taken, nothing is stored and nothing recorded; of many at once, one wins."""
    await created(manager, "same")
    before = await trail.events(), await rows.fetch("SELECT * FROM sessions")
    with pytest.raises(SessionExistsError):
        await created(manager, "same")
    assert (await trail.events(), await rows.fetch("SELECT * FROM sessions")) == before
    answers = await asyncio.gather(*(created(manager, "other") for _ in range(10)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in answers) == ["SessionExistsError"] * 9 + ["str"]
    await trail.agrees_with_the_table()


async def test_lives_of_one_id_are_told_apart(manager: SessionManager, trail: Trail) -> None:
    """An id that is used again at once begins another life, whatever each was created for."""
    for number in range(6):
        await created(manager, "same", reason=CREATED_BY_TOOL if number % 2 else "created")
        session = await manager.resume_session("same", ACME)
        assert session is not None
        assert await manager.found_by_handle([session]) == ({session.digest} if number % 2 else frozenset())
        assert await manager.terminate_session("same")
    assert (await trail.kinds("same")).count("created") == 6
    await trail.agrees_with_the_table()


async def test_bad_reasons(manager: SessionManager, rows: Rows) -> None:
    """A reason is text of bounded length; a handshake belongs to sessions that are created as usual."""
    for bad in ("", "a" * 257, "\x00", "\ud800"):
        with pytest.raises(InvalidInputError, match="reason"):
            await created(manager, reason=bad)
    with pytest.raises(InvalidInputError, match="handshake"):
        await manager.create_session(handshake=Handshake("2025-11-25", "{}"), reason=CREATED_BY_TOOL)
    assert await rows.count() == 0


async def test_an_absolute_timeout_bounds_it(open_manager: OpenManager) -> None:
    """An absolute timeout bounds a session by handle as it does any other."""
    manager = await open_manager()
    bounded = await open_manager(absolute_timeout=manager.settings.idle_timeout)
    session = await bounded.resume_session(await created(bounded), ACME)
    assert session is not None
    assert session.expires_at - session.created_at == manager.settings.idle_timeout
