"""Durations: a number of seconds, also where a day of the calendar has another length than 24 hours.

Postgres counts days of the calendar in the time zone that the server, the database or the role is set to. Here the
clocks of that zone change ten days from now and changed ten days ago, by an hour forward and by an hour back.
"""

from datetime import UTC, datetime, timedelta

import pytest

from mcp_sessions import EventFilter, Owner, SessionManager
from tests.support.managers import OpenManager
from tests.support.rows import Rows
from tests.support.trail import Trail, moment

LONG = timedelta(days=60)
HALF_AN_HOUR = timedelta(minutes=30)


@pytest.fixture(autouse=True, params=["forward in ten days", "back in ten days"])
async def changing_clocks(request: pytest.FixtureRequest, rows: Rows) -> None:
    """Set the database to a time zone whose clocks change within the durations of these tests."""
    if rows.on_sqlite:
        return
    soon, lately = (_day_of_year(datetime.now(UTC) + timedelta(days=days)) for days in (10, -10))
    begins, ends = (soon, lately) if request.param.startswith("forward") else (lately, soon)
    name = await rows.value("SELECT current_database()")
    await rows.execute(f"""ALTER DATABASE "{name}" SET timezone = 'STD0DST,J{begins},J{ends}'""")


def _day_of_year(day: datetime) -> int:
    """Count a day of the year as time zones are written by POSIX: from 1, and February has 28 days."""
    return day.replace(year=2025, day=min(day.day, 28)).timetuple().tm_yday


async def test_the_time_zone_does_what_it_is_for(rows: Rows) -> None:
    """In the time zone of these tests, sixty days of the calendar are not sixty times 24 hours."""
    if not rows.on_sqlite:
        hours = "extract(epoch FROM now() + interval '60 days' - now()) / 3600"
        assert await rows.value(f"SELECT {hours}") in (60 * 24 - 1, 60 * 24 + 1)


async def test_a_timeout_of_days_is_so_many_seconds(open_manager: OpenManager, rows: Rows) -> None:
    """Idle and absolute timeouts are counted in seconds, at the creation and at every touch."""
    minute = timedelta(minutes=1)
    idle = await open_manager(idle_timeout=LONG - minute, touch_interval=minute)
    absolute = await open_manager(idle_timeout=2 * LONG, absolute_timeout=2 * LONG, touch_interval=minute)
    for manager, window in ((idle, LONG), (absolute, 2 * LONG)):
        session_id = await manager.create_session()
        session = await manager.get_session_metadata(session_id)
        assert session is not None
        assert session.expires_at - session.last_activity_at == window
        await rows.age(session_id, timedelta(hours=1))
        session = await manager.resume_session(session_id, Owner())
        assert session is not None
        since = session.created_at if manager is absolute else session.last_activity_at
        assert session.expires_at - since == window


async def test_a_touch_interval_of_days_is_so_many_seconds(open_manager: OpenManager, rows: Rows) -> None:
    """A touch is due when the interval is over, not an hour before or after."""
    manager = await open_manager(idle_timeout=2 * LONG, touch_interval=LONG)
    session_id = await manager.create_session()
    for age, is_written in ((LONG - HALF_AN_HOUR, False), (2 * HALF_AN_HOUR, True)):
        await rows.age(session_id, age)
        before = await rows.session(session_id)
        assert await manager.resume_session(session_id, Owner()) is not None
        assert (await rows.session(session_id) != before) == is_written


async def add_event(rows: Rows, ago: timedelta) -> None:
    """Add the end of a session that lived this long ago, past the trigger that forbids ageing events."""
    at = moment_ago(rows, ago)
    digest = "randomblob(32)" if rows.on_sqlite else "sha256(random()::text::bytea)"
    await rows.execute(
        "INSERT INTO session_events (occurred_at, kind, reason, actor, session_digest, session_created_at, is_end) "
        f"VALUES ({at}, 'terminated', 'old', 'owner', {digest}, {at}, true)"
    )


def moment_ago(rows: Rows, ago: timedelta) -> str:
    """Return, in the engine's SQL, the moment that lies so many seconds back."""
    seconds = ago.total_seconds()
    if rows.on_sqlite:
        return f"strftime('%Y-%m-%d %H:%M:%f', 'now', '-{seconds} seconds')"
    return f"now() - {seconds} * interval '1 second'"


async def test_since_days_ago_is_so_many_seconds(manager: SessionManager, rows: Rows) -> None:
    """A filter by age is counted in seconds."""
    await add_event(rows, LONG - HALF_AN_HOUR)
    await add_event(rows, LONG + HALF_AN_HOUR)
    assert len(await manager.list_events(EventFilter(since=LONG))) == 1


async def test_the_retention_is_so_many_seconds(open_manager: OpenManager, rows: Rows, trail: Trail) -> None:
    """Events and runs stay for the retention, not an hour longer or shorter."""
    manager = await open_manager(audit_retention=LONG)
    for ago in (LONG - HALF_AN_HOUR, LONG + HALF_AN_HOUR):
        await add_event(rows, ago)
        at = moment_ago(rows, ago)
        await rows.execute(
            "INSERT INTO cleanup_runs (run_id, worker, started_at, held_until_at, ended_at, sessions_removed) "
            f"VALUES ('{ago}', 'worker', {at}, {at}, {at}, 0)"
        )
    await manager.cleanup_stale_sessions()
    (event,) = await trail.events()
    assert datetime.now(UTC) - moment(event["occurred_at"]) < LONG
    assert await rows.value(f"SELECT count(*) FROM cleanup_runs WHERE run_id = '{LONG - HALF_AN_HOUR}'") == 1
    assert await rows.count("cleanup_runs") == 2


async def test_the_views_count_seconds(rows: Rows) -> None:
    """A session's end in the history is its beginning and its duration, in seconds."""
    lifetime = (LONG + HALF_AN_HOUR).total_seconds()
    digest = "randomblob(32)" if rows.on_sqlite else "sha256('long')"
    opened = moment_ago(rows, 2 * LONG)
    await rows.execute(
        "INSERT INTO session_events (occurred_at, kind, reason, actor, session_digest, session_created_at, is_end, "
        f"lifetime_seconds) VALUES ({opened}, 'terminated', 'x', 'owner', {digest}, {opened}, true, {lifetime})"
    )
    (shown,) = await rows.fetch("SELECT opened_at, ended_at, duration_seconds FROM session_history")
    assert shown["duration_seconds"] == lifetime
    assert (moment(shown["ended_at"]) - moment(shown["opened_at"])).total_seconds() == lifetime
