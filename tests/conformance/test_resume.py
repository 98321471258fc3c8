"""``resume_session``, the hot path: a live session, for its owner as a whole.

One who comes with another owner learns nothing and changes nothing.
"""

from dataclasses import asdict
from datetime import timedelta

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.owners import ACME, MISMATCHES
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER

EVERY_USE = timedelta(0)


async def test_the_owner_gets_the_session(manager: SessionManager) -> None:
    """The session that was created is returned to its owner, with its digest, owner and times."""
    session_id = await manager.create_session(**asdict(ACME))
    session = await manager.resume_session(session_id, ACME)
    assert session is not None
    assert (session.digest, session.owner) == (digest_of(session_id), ACME)
    assert session.created_at <= session.last_activity_at < session.expires_at
    assert session == await manager.get_session_metadata(session_id)


async def test_an_unknown_id_is_none(manager: SessionManager) -> None:
    """An id that no session has is an answer, not an error."""
    assert await manager.resume_session("unknown", ACME) is None


@pytest.mark.parametrize("touch_interval", [EVERY_USE, timedelta(minutes=1)], ids=["every use", "interval"])
async def test_another_owner_gets_none_and_changes_nothing(
    open_manager: OpenManager, rows: Rows, touch_interval: timedelta
) -> None:
    """Owners are compared as a whole and null-safely; a use by another one is no activity, even where one is due."""
    manager = await open_manager(touch_interval=touch_interval)
    ids = {name: await manager.create_session(**asdict(owner)) for name, (owner, _) in MISMATCHES.items()}
    await rows.age_all(timedelta(minutes=20))
    before = await rows.fetch("SELECT * FROM sessions")
    admitted = [name for name, (_, other) in MISMATCHES.items() if await manager.resume_session(ids[name], other)]
    assert admitted == []
    assert await rows.fetch("SELECT * FROM sessions") == before
    refused = [name for name, (owner, _) in MISMATCHES.items() if not await manager.resume_session(ids[name], owner)]
    assert refused == []


async def test_two_owners_at_once_are_told_apart(open_manager: OpenManager, rows: Rows) -> None:
    """Uses of one session that share a statement are each judged by their own owner, whichever comes first."""
    for touch_interval in (EVERY_USE, timedelta(minutes=1)):
        manager = await open_manager(touch_interval=touch_interval)
        session_id = await manager.create_session(**asdict(ACME))
        await rows.age(session_id, timedelta(minutes=20))
        owners = [Owner(), ACME, Owner(tenant_id="acme"), ACME, Owner()]
        found = await together(*(manager.resume_session(session_id, owner) for owner in owners))
        assert [each is not None for each in found] == [False, True, False, True, False]


async def test_every_use_is_recorded_with_a_touch_interval_of_zero(open_manager: OpenManager, rows: Rows) -> None:
    """``touch_interval=timedelta(0)`` writes at each resume, and the session expires one idle timeout later."""
    manager = await open_manager(touch_interval=EVERY_USE, idle_timeout=timedelta(minutes=10))
    session_id = await manager.create_session()
    for _ in range(3):
        await rows.age(session_id, timedelta(seconds=1))
        before = await manager.get_session_metadata(session_id)
        session = await manager.resume_session(session_id, Owner())
        assert before is not None
        assert session is not None
        assert session.last_activity_at >= before.last_activity_at + timedelta(seconds=1)
        assert session.expires_at == session.last_activity_at + timedelta(minutes=10)


async def test_activity_is_written_once_per_touch_interval(open_manager: OpenManager, rows: Rows) -> None:
    """Within the touch interval a resume leaves the row alone; after it, the row is written."""
    manager = await open_manager(touch_interval=timedelta(minutes=2))
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(minutes=1, seconds=50))
    before = await rows.session(session_id)
    assert await manager.resume_session(session_id, Owner()) is not None
    assert await rows.session(session_id) == before
    await rows.age(session_id, timedelta(seconds=10))
    found = await manager.get_session_metadata(session_id)
    after = await manager.resume_session(session_id, Owner())
    assert found is not None
    assert after is not None
    assert after.last_activity_at >= found.last_activity_at + timedelta(minutes=2)
    assert after == await manager.get_session_metadata(session_id)


async def test_every_worker_sees_it_at_once(open_manager: OpenManager) -> None:
    """What one worker created, touched or ended, another one sees at once."""
    one, other = await open_manager(), await open_manager(touch_interval=EVERY_USE)
    session_id = await one.create_session(**asdict(ACME))
    touched = await other.resume_session(session_id, ACME)
    assert touched is not None
    assert await one.get_session_metadata(session_id) == touched
    await other.terminate_session(session_id)
    assert await one.resume_session(session_id, ACME) is None


async def test_sessions_outlive_the_manager(open_manager: OpenManager, engine_settings: dict[str, object]) -> None:
    """Closing a manager ends no session."""
    async with SessionManager.open(**engine_settings) as first:  # type: ignore[arg-type]  # settings by name
        session_id = await first.create_session(**asdict(ACME))
    assert await (await open_manager()).resume_session(session_id, ACME) is not None
