"""Retention: the cleanup removes events and runs that are older than the audit trail is kept, in bounded batches."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any, cast

from mcp_sessions import SessionManager
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.rows import Rows
from tests.support.trail import Trail

pytestmark = WITH_PGBOUNCER


async def add_events(rows: Rows, count: int, *, days_ago: int) -> None:
    """Add events of sessions that began and ended this long ago, past the trigger that forbids ageing them."""
    if rows.on_sqlite:
        numbers = f"(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)"
        digest, moment = "randomblob(32)", f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-{days_ago} days')"
    else:
        numbers = f"generate_series(1, {count})"
        digest, moment = "sha256(random()::text::bytea)", f"now() - interval '{days_ago} days'"
    await rows.execute(
        "INSERT INTO session_events (occurred_at, kind, reason, actor, session_digest, session_created_at, is_end) "
        f"SELECT {moment}, 'terminated', 'old', 'owner', {digest}, {moment}, true FROM {numbers} numbers"
    )


async def add_run(rows: Rows, run_id: str, *, days_ago: int) -> None:
    """Add a cleanup run that began and ended this long ago."""
    moment = (
        f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-{days_ago} days')"
        if rows.on_sqlite
        else f"now() - interval '{days_ago} days'"
    )
    await rows.execute(
        "INSERT INTO cleanup_runs (run_id, worker, started_at, held_until_at, ended_at, sessions_removed) "
        f"VALUES ('{run_id}', 'worker', {moment}, {moment}, {moment}, 0)"
    )


async def test_old_events_go_and_the_others_stay(open_manager: OpenManager, trail: Trail, rows: Rows) -> None:
    """A cleanup removes what is older than the retention, in as many batches as it takes, and writes down how much."""
    manager = await open_manager(cleanup_batch_size=3, audit_retention=timedelta(days=10))
    await add_events(rows, 10, days_ago=11)
    await add_events(rows, 4, days_ago=9)
    session_id = await manager.create_session()
    assert await manager.cleanup_stale_sessions() == 0
    assert await trail.kinds() == ["terminated"] * 4 + ["created"]
    (run,) = await rows.fetch("SELECT * FROM cleanup_runs")
    assert (run["sessions_removed"], run["events_removed"], run["error"]) == (0, 10, None)
    assert await manager.is_session_valid(session_id)


async def test_the_default_is_four_hundred_days(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """Without a setting, events are kept for 400 days."""
    await add_events(rows, 2, days_ago=401)
    await add_events(rows, 1, days_ago=399)
    await manager.cleanup_stale_sessions()
    assert len(await trail.events()) == 1


async def test_old_runs_go_too(open_manager: OpenManager, rows: Rows) -> None:
    """A cleanup removes the record of runs that are older than the retention, and keeps the others."""
    manager = await open_manager(cleanup_batch_size=2, audit_retention=timedelta(days=10))
    for number in range(5):
        await add_run(rows, f"old {number}", days_ago=11)
    await add_run(rows, "young", days_ago=9)
    await manager.cleanup_stale_sessions()
    left = [row["run_id"] for row in await rows.fetch("SELECT run_id FROM cleanup_runs ORDER BY started_at")]
    assert left[0] == "young"
    assert len(left) == 2


async def test_one_run_removes_sessions_and_events(open_manager: OpenManager, trail: Trail, rows: Rows) -> None:
    """Expired sessions and old events go in the same run, and the new ends stay."""
    manager = await open_manager(cleanup_batch_size=2)
    ids = [await manager.create_session() for _ in range(5)]
    await rows.execute(
        f"UPDATE sessions SET expires_at = last_activity_at, cleanup_at = last_activity_at WHERE {rows.among(ids[:4])}"
    )
    await add_events(rows, 5, days_ago=500)
    assert await manager.cleanup_stale_sessions() == 4
    (run,) = await rows.fetch("SELECT * FROM cleanup_runs")
    assert (run["sessions_removed"], run["events_removed"]) == (4, 5)
    assert await trail.kinds() == ["created"] * 5 + ["expired"] * 4


async def test_the_number_of_an_event_is_given_once(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """Also after the newest event was removed, the next one has a number that none had before."""
    await manager.create_session()
    (before,) = await trail.events()
    await rows.execute("DELETE FROM session_events")
    await manager.create_session()
    (after,) = await trail.events()
    assert after["event_id"] > before["event_id"]


async def test_who_follows_misses_nothing_behind_an_emptied_trail(manager: SessionManager, rows: Rows) -> None:
    """The events after a retention that left none reach whoever follows the trail."""
    await manager.create_session(client_id="first")
    async with asyncio.timeout(20), aclosing(cast("Any", manager.follow_events(last=1))) as following:
        assert [each.owner.client_id for each in await anext(following)] == ["first"]
        await rows.execute("DELETE FROM session_events")
        await manager.create_session(client_id="second")
        assert [each.owner.client_id for each in await anext(following)] == ["second"]
