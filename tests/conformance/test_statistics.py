"""``stats``: the numbers that an operator looks at first, on both engines alike."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest

from mcp_sessions import Owner, SessionManager
from tests.support.owners import ACME
from tests.support.rows import Rows
from tests.support.stories import Life, Refused, tell

NO_ENDS = {"terminated": 0, "revoked": 0, "expired": 0, "cleared": 0, "deleted": 0}


async def test_of_an_empty_database(manager: SessionManager) -> None:
    """Where nothing ever happened, every number is zero, nothing has an average, and there is no run."""
    await manager.stop_cleanup_interval()
    stats = await manager.stats()
    assert (stats.live, stats.expired, stats.tenants) == (0, 0, ())
    for activity in (stats.last_hour, stats.last_day):
        assert asdict(activity) == {"opened": 0, "ended": NO_ENDS, "refused": 0, "average_life_seconds": None}
    assert [(each.opened, each.ended, each.open_at_end) for each in stats.hours] == [(0, 0, 0)] * 24


async def test_live_sessions_by_tenant(manager: SessionManager, rows: Rows) -> None:
    """Live and expired sessions are told apart, and the tenants with the most live ones are named, five at most."""
    expired = await manager.create_session(tenant_id="t0")
    await rows.age(expired, timedelta(days=1))
    for number in range(1, 7):
        for _ in range(number):
            await manager.create_session(tenant_id=f"t{number}")
    stats = await manager.stats()
    assert (stats.live, stats.expired) == (21, 1)
    assert stats.tenants == (("t6", 6), ("t5", 5), ("t4", 4), ("t3", 3), ("t2", 2))


async def test_activity_of_the_last_hour_and_day(manager: SessionManager, rows: Rows) -> None:
    """What was opened, ended and refused counts in its hour and in the day, and what is older counts nowhere."""
    now = datetime.now(UTC)

    def ago(hours: float) -> datetime:
        return now - timedelta(hours=hours)

    lives = [
        Life("older", ACME, ago(40), ago(30)),
        Life("overnight", ACME, ago(30), ago(20.5), kind="expired", actor="cleanup"),
        Life("short", ACME, ago(3.5), ago(2.5)),
        Life("recent", Owner(), ago(1.5), ago(0.5), kind="revoked", actor="operator"),
        Life("live", ACME, ago(0.25)),
    ]
    await tell(rows, lives, [Refused(lives[-1], Owner("other"), ago(0.2)), Refused(lives[2], Owner("other"), ago(3))])
    stats = await manager.stats()
    assert (stats.last_hour.opened, stats.last_hour.ended) == (1, NO_ENDS | {"revoked": 1})
    assert (stats.last_day.opened, stats.last_day.refused, stats.last_hour.refused) == (3, 2, 1)
    assert stats.last_day.ended == NO_ENDS | {"revoked": 1, "terminated": 1, "expired": 1}
    assert stats.last_hour.average_life_seconds == pytest.approx(3600, abs=1)
    assert stats.last_day.average_life_seconds == pytest.approx(11.5 / 3 * 3600, abs=1)
    backwards = [(each.opened, each.ended, each.open_at_end) for each in reversed(stats.hours)]
    assert backwards[:5] == [(1, 1, 1), (1, 0, 1), (0, 1, 0), (1, 0, 1), (0, 0, 0)]
    assert backwards[19:22] == [(0, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert stats.hours[-1].ends_at == stats.at


async def test_the_last_cleanup_run(manager: SessionManager, rows: Rows) -> None:
    """The run that began last is told: when, what it removed, and no error where there was none."""
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(days=1))
    await manager.stop_cleanup_interval()
    removed = await manager.cleanup_stale_sessions()
    run = (await manager.stats()).last_cleanup
    assert run is not None
    assert run.ended_at is not None
    assert (removed, run.sessions_removed, run.error) == (1, 1, None)
    assert run.started_at <= run.ended_at
