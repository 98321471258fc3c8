"""What trusted code that holds the id may ask: ``is_session_valid``, ``get_session_metadata``, ``touch_session``."""

from dataclasses import FrozenInstanceError, asdict
from datetime import timedelta

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.owners import ACME
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER


async def test_looking_is_no_activity(open_manager: OpenManager, rows: Rows) -> None:
    """Neither validity nor metadata nor a handshake records activity, even where a touch is due."""
    manager = await open_manager(touch_interval=timedelta(0))
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(minutes=20))
    before = await rows.session(session_id)
    assert await manager.is_session_valid(session_id)
    assert await manager.get_session_metadata(session_id) is not None
    assert await manager.get_handshake(digest_of(session_id)) is None
    assert await rows.session(session_id) == before


async def test_metadata_tell_owner_and_times(manager: SessionManager) -> None:
    """Metadata are what the row says, as frozen data with aware times in UTC."""
    session_id = await manager.create_session(**asdict(ACME))
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    assert session.owner == ACME
    assert session.digest == digest_of(session_id)
    times = (session.created_at, session.last_activity_at, session.expires_at)
    assert all(each.utcoffset() == timedelta(0) for each in times)
    with pytest.raises(FrozenInstanceError):
        session.owner = Owner()  # type: ignore[misc]  # what must fail


async def test_an_unknown_id_is_no_session(manager: SessionManager) -> None:
    """An id that no session has is not valid, has no metadata and cannot be touched."""
    assert not await manager.is_session_valid("unknown")
    assert await manager.get_session_metadata("unknown") is None
    assert await manager.touch_session("unknown") is False
    assert await manager.get_handshake(digest_of("unknown")) is None


async def test_a_touch_records_activity_whoever_owns_it(open_manager: OpenManager, rows: Rows) -> None:
    """Trusted code touches a session without naming its owner."""
    manager = await open_manager(touch_interval=timedelta(0), idle_timeout=timedelta(minutes=30))
    session_id = await manager.create_session(**asdict(ACME))
    await rows.age(session_id, timedelta(minutes=20))
    before = await manager.get_session_metadata(session_id)
    assert await manager.touch_session(session_id) is True
    after = await manager.get_session_metadata(session_id)
    assert before is not None
    assert after is not None
    assert after.last_activity_at - before.last_activity_at >= timedelta(minutes=20)
    assert after.expires_at - before.expires_at >= timedelta(minutes=20)
    assert (after.created_at, after.owner) == (before.created_at, before.owner)


async def test_a_touch_writes_once_per_touch_interval(open_manager: OpenManager, rows: Rows) -> None:
    """A touch that is not due is a yes without a write."""
    manager = await open_manager(touch_interval=timedelta(minutes=1))
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(seconds=50))
    before = await rows.session(session_id)
    assert await manager.touch_session(session_id) is True
    assert await rows.session(session_id) == before


async def test_a_touch_leaves_other_sessions_alone(open_manager: OpenManager, rows: Rows) -> None:
    """Only the touched session's row changes."""
    manager = await open_manager(touch_interval=timedelta(0))
    touched, other = await manager.create_session(**asdict(ACME)), await manager.create_session(**asdict(ACME))
    before = await rows.session(other)
    assert await manager.touch_session(touched)
    assert await rows.session(other) == before


async def test_a_touched_session_is_still_found_by_the_cleanup(open_manager: OpenManager, rows: Rows) -> None:
    """However often a session was touched, the cleanup finds it once it has expired."""
    manager = await open_manager(touch_interval=timedelta(0), idle_timeout=timedelta(minutes=30))
    session_id = await manager.create_session()
    for minutes in (1, 10, 25, 29, 3):
        await rows.age(session_id, timedelta(minutes=minutes))
        assert await manager.touch_session(session_id)
        assert await manager.cleanup_stale_sessions() == 0
    await rows.age(session_id, timedelta(minutes=31))
    assert await manager.cleanup_stale_sessions() == 1


@pytest.mark.parametrize("pool_size", [9, 10])
async def test_the_smallest_pool_serves_every_call(open_manager: OpenManager, pool_size: int) -> None:
    """However few connections there may be, none of the calls keeps another one from ever getting its own."""
    manager = await open_manager(pool_size=pool_size, touch_interval=timedelta(0), connect_timeout=timedelta(seconds=2))
    for _ in range(2):
        session_id = await manager.create_session(tenant_id="acme")
        assert await manager.touch_session(session_id)
        assert await manager.is_session_valid(session_id)
        assert len(await manager.list_sessions()) == await manager.get_active_session_count()
        assert await manager.get_handshake(digest_of(session_id)) is None
        assert await manager.cleanup_stale_sessions() == 0
        assert await manager.terminate_session(session_id)
        assert await manager.terminate_sessions(tenant_id="acme") == 0
