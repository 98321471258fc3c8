"""The scheduled cleanup: every interval with jitter, by one worker of all, whatever failed before."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from mcp_sessions import ManagerClosedError, SessionManager
from tests.support.concurrency import together
from tests.support.loops import run_apart
from tests.support.managers import ON_POSTGRES, OpenManager, eventually, eventually_in_sql
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows

SOON = timedelta(milliseconds=50)
NEVER = timedelta(days=1)


async def runs_recorded(rows: Rows, *, at_least: int) -> None:
    """Wait until this many runs have ended."""

    async def there_are_enough() -> bool:
        return bool(await rows.value(f"SELECT count(ended_at) >= {at_least} FROM cleanup_runs"))

    await eventually_in_sql(there_are_enough, f"{at_least} cleanup runs", seconds=20)


async def beginnings(rows: Rows) -> list[datetime]:
    """When the runs so far began."""
    found = await rows.fetch("SELECT started_at FROM cleanup_runs ORDER BY started_at")
    moments = [row["started_at"] for row in found]
    return [each if isinstance(each, datetime) else datetime.fromisoformat(each) for each in moments]


def logged(caplog: pytest.LogCaptureFixture, operation: str) -> Callable[[], bool]:
    """Ask whether an operation was logged."""
    return lambda: any(getattr(record, "operation", None) == operation for record in caplog.records)


async def test_it_removes_what_expires(open_manager: OpenManager, rows: Rows) -> None:
    """Without anybody asking, expired sessions go and live ones stay."""
    manager = await open_manager(cleanup_interval=SOON)
    expired, live = await manager.create_session(), await manager.create_session()
    await rows.age(expired, timedelta(days=1))

    async def is_gone() -> bool:
        return await rows.session(expired) is None

    await eventually_in_sql(is_gone, "the cleanup")
    assert await manager.is_session_valid(live)


async def test_it_runs_every_interval_with_jitter(open_manager: OpenManager, rows: Rows) -> None:
    """Between two runs lies an interval, a tenth more or less, and never twice the same."""
    await open_manager(cleanup_interval=2 * SOON)
    await runs_recorded(rows, at_least=5)
    gaps = [later - earlier for earlier, later in pairwise(await beginnings(rows))]
    assert min(gaps) >= 0.9 * 2 * SOON - timedelta(milliseconds=2)  # SQLite cuts moments to milliseconds
    assert len(set(gaps)) > 1


async def test_all_workers_together_run_once_an_interval(open_manager: OpenManager, rows: Rows) -> None:
    """However many workers keep the schedule, the deployment cleans up once an interval."""
    interval = 4 * SOON
    for _ in range(4):
        await open_manager(cleanup_interval=interval)
    await runs_recorded(rows, at_least=4)
    gaps = [later - earlier for earlier, later in pairwise(await beginnings(rows))]
    assert min(gaps) >= 0.8 * interval


async def test_a_clock_put_back_does_not_stop_it(open_manager: OpenManager, rows: Rows) -> None:
    """A run that seems to begin in an hour, since the clock was put back, keeps nobody from the next one."""
    manager = await open_manager(scheduled_cleanup=False)
    await manager.cleanup_stale_sessions()
    await rows.age_all(-timedelta(hours=1), table="cleanup_runs")
    await open_manager(cleanup_interval=SOON)
    await runs_recorded(rows, at_least=2)


async def test_a_lost_run_of_before_the_clock_was_put_back_gives_up_its_slot(
    open_manager: OpenManager, rows: Rows
) -> None:
    """A dead worker's lease that seems to last for another hour is over at once: no lease is that long."""
    manager = await open_manager(scheduled_cleanup=False)
    await manager.cleanup_stale_sessions()
    await rows.execute("UPDATE cleanup_runs SET ended_at = NULL, running_slot = 1")
    await rows.age_all(-timedelta(hours=1), table="cleanup_runs")
    assert await asyncio.wait_for(manager.cleanup_stale_sessions(), 10) == 0
    errors = {row["error"] for row in await rows.fetch("SELECT error FROM cleanup_runs")}
    assert errors == {None, "abandoned: its worker was not heard from any more"}


async def test_only_opening_with_a_schedule_starts_it(open_manager: OpenManager, rows: Rows) -> None:
    """``scheduled_cleanup=False`` leaves it to others, until it is started by hand."""
    manager = await open_manager(cleanup_interval=SOON, scheduled_cleanup=False)
    other = await open_manager(cleanup_interval=NEVER)
    assert not manager._schedule.is_running
    assert other._schedule.is_running
    await manager.start_cleanup_interval()
    await runs_recorded(rows, at_least=1)


async def test_starting_and_stopping_twice_does_nothing(
    open_manager: OpenManager, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one schedule, however often it is started, and stopping it again is no error."""
    caplog.set_level(logging.INFO)
    manager = await open_manager(cleanup_interval=NEVER)
    await manager.start_cleanup_interval()
    assert caplog.text.count("cleanup started") == 1
    await manager.stop_cleanup_interval()
    await manager.stop_cleanup_interval()
    assert caplog.text.count("cleanup stopped") == 1


async def test_stopped_means_no_more_runs(open_manager: OpenManager, rows: Rows) -> None:
    """Once stopping has returned no run is under way and none begins; it can be started again."""
    manager = await open_manager(cleanup_interval=SOON)
    await runs_recorded(rows, at_least=1)
    await manager.stop_cleanup_interval()
    before = await rows.fetch("SELECT * FROM cleanup_runs")
    assert all(run["ended_at"] is not None for run in before)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "mcp-sessions cleanup"]
    await manager.start_cleanup_interval()
    await runs_recorded(rows, at_least=len(before) + 1)


async def test_a_start_while_it_stops_is_a_new_schedule(open_manager: OpenManager, rows: Rows) -> None:
    """Stopping ends, though somebody starts the schedule anew in the meantime; then there is one."""
    manager = await open_manager(cleanup_interval=SOON)
    for _ in range(3):
        await asyncio.wait_for(together(manager.stop_cleanup_interval(), manager.start_cleanup_interval()), 10)
    assert len([task for task in asyncio.all_tasks() if task.get_name() == "mcp-sessions cleanup"]) == 1
    await runs_recorded(rows, at_least=1)


async def test_it_stops_after_the_batch_in_flight(open_manager: OpenManager, rows: Rows) -> None:
    """A stop does not wait for a long run: it ends early, says so in its record, and frees the slot."""
    manager = await open_manager(cleanup_interval=SOON, cleanup_batch_size=1, scheduled_cleanup=False)
    await together(*(manager.create_session() for _ in range(1500)))
    await rows.age_all(timedelta(days=1))
    await manager.start_cleanup_interval()

    async def is_amid() -> bool:
        return await rows.count() < 1500

    await eventually_in_sql(is_amid, "the first batch")
    await manager.stop_cleanup_interval()
    (run,) = await rows.fetch("SELECT * FROM cleanup_runs")
    assert (run["error"], run["running_slot"]) == ("stopped before its end", None)
    assert 0 < run["sessions_removed"] == 1500 - await rows.count() < 1500


async def test_leaving_stops_it(open_manager: OpenManager, engine_settings: dict[str, object]) -> None:
    """A closed manager has no schedule, and none can be started on it."""
    async with SessionManager.open(**engine_settings) as manager:  # type: ignore[arg-type]  # settings by name
        assert manager._schedule.is_running
    assert not manager._schedule.is_running
    with pytest.raises(ManagerClosedError):
        await manager.start_cleanup_interval()
    assert await (await open_manager()).cleanup_stale_sessions() == 0


@asynccontextmanager
async def writes_blocked(rows: Rows) -> AsyncIterator[None]:
    """Have another process hold what every write needs."""
    if rows.on_sqlite:
        async with rows.transaction("DELETE FROM sessions WHERE false"):
            yield
    else:
        async with rows.transaction("LOCK TABLE cleanup_runs IN EXCLUSIVE MODE"):
            yield


async def test_it_survives_a_failed_pass(
    open_manager: OpenManager, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """A pass that the database refuses is logged as an error, and a later one does the work."""
    limit = timedelta(milliseconds=250)  # a busy machine, too, does within it what nobody blocks
    bounds = {"statement_timeout": limit, "sqlite_busy_timeout": limit}
    manager = await open_manager(cleanup_interval=SOON, scheduled_cleanup=False, **bounds)
    session_id = await (await open_manager(scheduled_cleanup=False)).create_session()
    await rows.age(session_id, timedelta(days=1))
    async with writes_blocked(rows):
        await manager.start_cleanup_interval()
        await eventually(logged(caplog, "cleanup_failed"), "a failed pass")
    await runs_recorded(rows, at_least=1)
    assert await rows.session(session_id) is None
    (failure, *_) = [each for each in caplog.records if each.__dict__.get("operation") == "cleanup_failed"]
    assert failure.levelno == logging.ERROR
    assert failure.__dict__["reason"]
    assert failure.__dict__["next_try"] == str(2 * SOON)


@ON_POSTGRES
async def test_it_survives_an_outage(
    open_manager: OpenManager, rows: Rows, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is down the passes fail; once it is back the schedule goes on by itself."""
    manager = await open_manager(cleanup_interval=SOON)
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(days=1))
    await manager.stop_cleanup_interval()
    postgres_server.stop()
    await manager.start_cleanup_interval()
    await eventually(logged(caplog, "cleanup_failed"), "a failed pass")
    postgres_server.start()

    async def is_gone() -> bool:
        return await rows.session(session_id) is None

    await eventually_in_sql(is_gone, "the cleanup")


async def leave_a_run_unfinished(manager: SessionManager, rows: Rows) -> str:
    """Leave the record of a run as a worker does that died in the middle of it, and return its id."""
    await manager.cleanup_stale_sessions()
    moment = "strftime('%Y-%m-%d %H:%M:%f', 'now', '+30 seconds')" if rows.on_sqlite else "now() + interval '30 s'"
    run_id: str = await rows.value("SELECT run_id FROM cleanup_runs")
    await rows.execute(f"UPDATE cleanup_runs SET ended_at = NULL, running_slot = 1, held_until_at = {moment}")
    return run_id


async def test_a_run_that_died_is_taken_over_after_its_lease(open_manager: OpenManager, rows: Rows) -> None:
    """Nobody cleans up while another run holds the slot; when its lease is over it counts as lost."""
    manager = await open_manager(cleanup_interval=SOON, scheduled_cleanup=False)
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(days=1))
    lost = await leave_a_run_unfinished(manager, rows)
    await manager.create_session(session_id)
    await rows.age(session_id, timedelta(days=1))
    assert await manager._cleanup.run_unless_recent(timedelta(0), asyncio.Event()) is None
    assert await rows.session(session_id) is not None
    await rows.age_all(timedelta(seconds=31), table="cleanup_runs")
    assert await manager._cleanup.run_unless_recent(timedelta(0), asyncio.Event()) == 1
    (run,) = await rows.fetch(f"SELECT * FROM cleanup_runs WHERE run_id = '{lost}'")
    assert run["running_slot"] is None
    assert "abandoned" in run["error"]


async def test_a_run_by_hand_waits_for_the_lease_of_a_lost_one(open_manager: OpenManager, rows: Rows) -> None:
    """``cleanup_stale_sessions`` waits for a run in progress, and goes on once that has lost its slot."""
    manager = await open_manager()
    await leave_a_run_unfinished(manager, rows)
    waiting = asyncio.create_task(manager.cleanup_stale_sessions())
    await asyncio.wait([waiting], timeout=0.3)
    assert not waiting.done()
    await rows.age_all(timedelta(seconds=31), table="cleanup_runs")
    assert await asyncio.wait_for(waiting, 10) == 0


async def test_a_run_that_lost_its_slot_stops_and_counts_what_it_removed(open_manager: OpenManager, rows: Rows) -> None:
    """A run that was taken for lost ends after its batch; the answers of all runs together are exact."""
    manager = await open_manager(cleanup_batch_size=1)
    await together(*(manager.create_session() for _ in range(3)))
    await rows.age_all(timedelta(days=1))
    statement = "UPDATE cleanup_runs SET ended_at = started_at, running_slot = NULL, error = 'abandoned'"

    def lose_the_slot(removed: int) -> None:
        if removed == 1:
            run_apart(rows.execute(statement))

    assert await manager.cleanup_stale_sessions(progress=lose_the_slot) == 2
    assert await rows.count() == 1
    assert await manager.cleanup_stale_sessions() == 1
