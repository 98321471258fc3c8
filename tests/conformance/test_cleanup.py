"""``cleanup_stale_sessions``: removes every expired row and no other, in batches, and records its run."""

from datetime import timedelta
from itertools import pairwise

import pytest

from mcp_sessions import SessionManager
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER

LONG_AGO = timedelta(days=1)


async def test_it_removes_the_expired_and_only_them(manager: SessionManager, rows: Rows) -> None:
    """Expired sessions go, live ones stay exactly as they are, and the answer is how many went."""
    expired = await together(*(manager.create_session(tenant_id="acme") for _ in range(3)))
    live = await together(*(manager.create_session(tenant_id="acme") for _ in range(2)))
    for session_id in expired:
        await rows.age(session_id, LONG_AGO)
    before = [await rows.session(each) for each in live]
    assert await manager.cleanup_stale_sessions() == 3
    assert [await rows.session(each) for each in expired] == [None] * 3
    assert [await rows.session(each) for each in live] == before
    assert await manager.cleanup_stale_sessions() == 0


async def test_nothing_to_do_is_zero(manager: SessionManager) -> None:
    """On an empty table a run removes nothing."""
    assert await manager.cleanup_stale_sessions() == 0


@pytest.mark.parametrize("count", [2, 3, 7, 9])
async def test_it_works_in_bounded_batches(open_manager: OpenManager, rows: Rows, count: int) -> None:
    """However the number of expired sessions divides into batches, one run removes all, telling its progress."""
    manager = await open_manager(cleanup_batch_size=3)
    await together(*(manager.create_session() for _ in range(count)))
    await rows.age_all(LONG_AGO)
    told: list[int] = []
    assert await manager.cleanup_stale_sessions(progress=told.append) == count
    assert told[-1] == count
    assert all(later - earlier <= 3 for earlier, later in pairwise([0, *told]))


async def test_many_that_expired_at_one_moment(open_manager: OpenManager, rows: Rows) -> None:
    """A batch that ends amid sessions of one and the same moment loses none of them."""
    manager = await open_manager(cleanup_batch_size=3)
    await together(*(manager.create_session() for _ in range(10)))
    names = ("created_at", "last_activity_at", "expires_at", "cleanup_at")
    same = ", ".join(f"{name} = (SELECT min({name}) FROM sessions)" for name in names)
    await rows.execute(f"UPDATE sessions SET {same}")
    await rows.age_all(LONG_AGO)
    assert await manager.cleanup_stale_sessions() == 10


async def test_live_sessions_do_not_get_in_the_way(open_manager: OpenManager, rows: Rows) -> None:
    """Sessions that were extended lie before the expired ones in the cleanup's index, and are passed over."""
    manager = await open_manager(cleanup_batch_size=2, touch_interval=timedelta(0), idle_timeout=timedelta(minutes=30))
    extended = await together(*(manager.create_session() for _ in range(6)))
    await rows.age_all(timedelta(minutes=20))
    await together(*(manager.touch_session(each) for each in extended))
    await rows.age_all(timedelta(minutes=15))
    assert await manager.get_active_session_count() == 6
    expired = await together(*(manager.create_session() for _ in range(5)))
    for session_id in expired:
        await rows.age(session_id, timedelta(minutes=31))
    assert await manager.cleanup_stale_sessions() == 5
    assert await manager.get_active_session_count() == 6


async def test_a_session_in_use_leaves_the_way_once_its_use_overtook_the_cleanup(
    open_manager: OpenManager, rows: Rows
) -> None:
    """A touch leaves the place in the cleanup's index as it is, until that is past; then it is that of the expiry."""
    manager = await open_manager(touch_interval=timedelta(0), idle_timeout=timedelta(minutes=30))
    session_id = await manager.create_session()

    async def place_after_a_touch() -> str:
        await rows.age(session_id, timedelta(minutes=20))
        (before,) = await rows.fetch("SELECT cleanup_at FROM sessions")
        assert await manager.touch_session(session_id)
        (row,) = await rows.fetch("SELECT cleanup_at, expires_at FROM sessions")
        return {before["cleanup_at"]: "as it was", row["expires_at"]: "at the expiry"}[row["cleanup_at"]]

    assert [await place_after_a_touch() for _ in range(4)] == ["as it was", "at the expiry"] * 2


async def test_one_whose_expiry_an_operator_brought_forward(manager: SessionManager, rows: Rows) -> None:
    """A session that an operator lets expire by hand is swept like any other."""
    session_id = await manager.create_session()
    await rows.execute(f"UPDATE sessions SET expires_at = created_at WHERE {rows.among([session_id])}")
    assert not await manager.is_session_valid(session_id)
    assert await manager.cleanup_stale_sessions() == 1


async def test_a_run_is_recorded(manager: SessionManager, rows: Rows) -> None:
    """Each run leaves a row: when, by whom, how many it removed, that it ended without error and freed the slot."""
    await manager.create_session()
    await rows.age_all(LONG_AGO)
    assert await manager.cleanup_stale_sessions() == 1
    (run,) = await rows.fetch("SELECT * FROM cleanup_runs")
    assert run["sessions_removed"] == 1
    assert run["worker"]
    assert (run["error"], run["running_slot"]) == (None, None)
    assert run["started_at"] <= run["ended_at"]


async def test_a_run_by_hand_does_not_care_how_recent_the_last_was(manager: SessionManager, rows: Rows) -> None:
    """Run after run does its work; only the schedule skips what was done a moment ago."""
    for _ in range(3):
        await manager.create_session("again")
        await rows.age("again", LONG_AGO)
        assert await manager.cleanup_stale_sessions() == 1
    assert await rows.count("cleanup_runs") == 3
