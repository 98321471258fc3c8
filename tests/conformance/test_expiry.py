"""When a session expires, and that what has expired never lives again.

Never sooner than its idle timeout after its last activity, at most one touch interval later, and never after the
absolute timeout.
"""

from datetime import timedelta

import pytest

from mcp_sessions import Owner, SessionManager
from tests.support.managers import OpenManager, eventually_in_sql
from tests.support.rows import Rows

IDLE = timedelta(minutes=30)
TOUCH = timedelta(minutes=5)
MOMENT = timedelta(seconds=5)
"""Room for the machine to be slow: how far a test keeps from the edges of time."""


@pytest.fixture
async def manager(open_manager: OpenManager) -> SessionManager:
    """A manager with an idle timeout of 30 minutes and a touch interval of 5."""
    return await open_manager(idle_timeout=IDLE, touch_interval=TOUCH)


async def is_live(manager: SessionManager, session_id: str) -> bool:
    """Ask without activity, in every way there is, and have them agree."""
    valid = await manager.is_session_valid(session_id)
    assert (await manager.get_session_metadata(session_id) is not None) == valid
    assert (await manager.get_active_session_count() == 1) == valid
    assert (len(await manager.list_sessions()) == 1) == valid
    return valid


async def test_not_sooner_than_the_idle_timeout_after_recorded_activity(manager: SessionManager, rows: Rows) -> None:
    """A session whose activity was recorded is live for the whole idle timeout, and for a touch interval more."""
    session_id = await manager.create_session()
    await rows.age(session_id, IDLE + TOUCH - MOMENT)
    assert await is_live(manager, session_id)
    await rows.age(session_id, MOMENT)
    assert not await is_live(manager, session_id)


async def test_not_sooner_than_the_idle_timeout_after_unrecorded_activity(manager: SessionManager, rows: Rows) -> None:
    """Activity that was not due to be written keeps the session for the whole idle timeout all the same."""
    session_id = await manager.create_session()
    await rows.age(session_id, TOUCH - MOMENT)
    before = await rows.session(session_id)
    assert await manager.resume_session(session_id, Owner()) is not None
    assert await rows.session(session_id) == before
    await rows.age(session_id, IDLE)
    assert await is_live(manager, session_id)


async def test_use_after_use_keeps_it_alive(manager: SessionManager, rows: Rows) -> None:
    """A session in use outlives any number of idle timeouts."""
    session_id = await manager.create_session()
    for _ in range(6):
        await rows.age(session_id, IDLE - MOMENT)
        assert await manager.resume_session(session_id, Owner()) is not None
    created = (await manager.list_sessions()).sessions[0].created_at
    assert (await manager.list_sessions()).sessions[0].last_activity_at - created > 5 * IDLE


async def test_with_a_touch_interval_of_zero_it_expires_exactly(open_manager: OpenManager, rows: Rows) -> None:
    """Where every use is recorded, the idle timeout is exact."""
    manager = await open_manager(idle_timeout=IDLE, touch_interval=timedelta(0))
    session_id = await manager.create_session()
    await rows.age(session_id, IDLE - MOMENT)
    assert await is_live(manager, session_id)
    assert await manager.touch_session(session_id)
    await rows.age(session_id, IDLE)
    assert not await is_live(manager, session_id)


@pytest.mark.parametrize("touch_interval", [timedelta(0), TOUCH], ids=["every use", "interval"])
async def test_the_absolute_timeout_caps_every_life(
    open_manager: OpenManager, rows: Rows, touch_interval: timedelta
) -> None:
    """However busy, a session ends at its absolute timeout, and says so in ``expires_at`` before."""
    absolute = timedelta(minutes=70)
    manager = await open_manager(idle_timeout=IDLE, touch_interval=touch_interval, absolute_timeout=absolute)
    session_id = await manager.create_session()
    for _ in range(2):
        await rows.age(session_id, IDLE - MOMENT)
        assert await manager.touch_session(session_id)
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    assert session.expires_at == session.created_at + absolute
    await rows.age(session_id, timedelta(minutes=10))
    assert await is_live(manager, session_id)
    await rows.age(session_id, 2 * MOMENT)
    assert not await manager.touch_session(session_id)
    assert not await is_live(manager, session_id)


async def test_an_absolute_timeout_as_long_as_the_idle_one(open_manager: OpenManager, rows: Rows) -> None:
    """The touch interval does not lengthen a life beyond the absolute timeout."""
    manager = await open_manager(idle_timeout=IDLE, touch_interval=TOUCH, absolute_timeout=IDLE)
    session_id = await manager.create_session()
    await rows.age(session_id, IDLE)
    assert not await is_live(manager, session_id)


@pytest.mark.parametrize("touch_interval", [timedelta(0), TOUCH], ids=["every use", "interval"])
async def test_nothing_revives_an_expired_session(
    open_manager: OpenManager, rows: Rows, touch_interval: timedelta
) -> None:
    """Neither a resume nor a touch nor an end by anyone changes the row of an expired session."""
    manager = await open_manager(idle_timeout=IDLE, touch_interval=touch_interval)
    session_id = await manager.create_session()
    await rows.age(session_id, IDLE + TOUCH)
    before = await rows.session(session_id)
    assert await manager.resume_session(session_id, Owner()) is None
    assert not await manager.touch_session(session_id)
    assert not await manager.terminate_session(session_id)
    assert not await manager.terminate_session(session_id, owner=Owner())
    assert await rows.session(session_id) == before
    assert not await is_live(manager, session_id)


async def test_the_databases_clock_alone_decides(open_manager: OpenManager, rows: Rows) -> None:
    """The expiry stands in the row: a worker with longer timeouts does not see a session live that has expired."""
    short = await open_manager(idle_timeout=timedelta(minutes=1), touch_interval=timedelta(0))
    patient = await open_manager(idle_timeout=timedelta(days=30), touch_interval=timedelta(0))
    session_id = await short.create_session()
    await rows.age(session_id, timedelta(minutes=1))
    assert not await patient.touch_session(session_id)
    assert not await is_live(patient, session_id)


async def test_activity_never_moves_backwards(open_manager: OpenManager, rows: Rows) -> None:
    """A touch by a clock that lags behind (after a failover, say) takes nothing away from a session."""
    manager = await open_manager(idle_timeout=IDLE, touch_interval=timedelta(0))
    session_id = await manager.create_session()
    await rows.age(session_id, -timedelta(minutes=3))
    before = await manager.get_session_metadata(session_id)
    assert await manager.resume_session(session_id, Owner()) == before
    assert await manager.touch_session(session_id)
    assert await manager.get_session_metadata(session_id) == before


async def test_the_longest_timeout_works(open_manager: OpenManager, rows: Rows) -> None:
    """Ten years of idling are kept to, without overflow."""
    manager = await open_manager(idle_timeout=timedelta(days=3650))
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(days=3649))
    assert await is_live(manager, session_id)


async def test_the_shortest_timeout_works(open_manager: OpenManager) -> None:
    """A millisecond of idling is not rounded to more."""
    manager = await open_manager(idle_timeout=timedelta(milliseconds=1), touch_interval=timedelta(0))
    session_id = await manager.create_session()

    async def has_expired() -> bool:
        return not await manager.is_session_valid(session_id)

    await eventually_in_sql(has_expired, "the session to expire", seconds=2)
