"""Cancelled callers leave nothing behind: no connection, no open transaction, no thread, no broken neighbour."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from mcp_sessions import McpSessionsError, Owner, SessionManager
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager, connections_are_back, eventually, eventually_in_sql
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER

Call = Callable[[SessionManager], Coroutine[Any, Any, Any]]

CALLS: dict[str, Call] = {
    "create": lambda manager: manager.create_session(),
    "resume": lambda manager: manager.resume_session("kept", Owner()),
    "touch": lambda manager: manager.touch_session("kept"),
    "valid": lambda manager: manager.is_session_valid("kept"),
    "terminate": lambda manager: manager.terminate_session("unknown"),
    "terminate many": lambda manager: manager.terminate_sessions(tenant_id="nobody"),
    "list": lambda manager: manager.list_sessions(),
    "count": lambda manager: manager.get_active_session_count(),
    "cleanup": lambda manager: manager.cleanup_stale_sessions(),
}


async def nothing_is_left(manager: SessionManager, rows: Rows) -> None:
    """No connection is out of its pool, and none on the server has a transaction open."""
    await connections_are_back(manager)
    if rows.on_sqlite:
        await rows.execute("BEGIN IMMEDIATE")  # fails where somebody holds the write lock
        return
    open_transactions = (
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
    )

    async def there_is_none() -> bool:
        return bool(await rows.value(open_transactions) == 0)

    await eventually_in_sql(there_is_none, "open transactions to end", seconds=5)


async def cancelled(call: Coroutine[Any, Any, Any], *, after_steps: int) -> None:
    """Start a call, let the event loop go on for so many steps, and cancel the call if it is still there."""
    task = asyncio.ensure_future(call)
    for _ in range(after_steps):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("touch_interval", [timedelta(0), timedelta(minutes=1)], ids=["every use", "interval"])
async def test_cancelled_at_every_step(open_manager: OpenManager, rows: Rows, touch_interval: timedelta) -> None:
    """However far a call had come when it was cancelled, nothing is left behind, and the manager goes on."""
    manager = await open_manager(touch_interval=touch_interval)
    await manager.create_session("kept")
    for call in CALLS.values():
        for steps in (0, 1, 2, 3, 5, 8, 13, 21, 55, 144):
            await cancelled(call(manager), after_steps=steps)
    await nothing_is_left(manager, rows)
    assert await manager.resume_session("kept", Owner()) is not None
    assert await asyncio.wait_for(manager.cleanup_stale_sessions(), 10) == 0


async def test_neighbours_get_their_answers(open_manager: OpenManager, rows: Rows) -> None:
    """Of many calls that share statements some are cancelled; all others are answered rightly."""
    manager = await open_manager(touch_interval=timedelta(0))
    await together(*(manager.create_session(f"session-{number}") for number in range(40)))
    random = Random(7)  # noqa: S311 - no secret
    for _ in range(5):
        tasks = [asyncio.ensure_future(manager.touch_session(f"session-{number}")) for number in range(40)]
        await asyncio.sleep(0)
        victims = random.sample(tasks, 20)
        for victim in victims:
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
            victim.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(answer is True or task in victims for task, answer in zip(tasks, answers, strict=True))
    await nothing_is_left(manager, rows)


async def test_time_limits_of_the_caller(open_manager: OpenManager, rows: Rows) -> None:
    """Callers that give up while the database makes them wait leave nothing behind when it goes on."""
    manager = await open_manager(touch_interval=timedelta(0), pool_size=9)
    await manager.create_session("kept")
    blocker = "DELETE FROM sessions WHERE false" if rows.on_sqlite else "LOCK TABLE sessions IN EXCLUSIVE MODE"
    async with rows.transaction(blocker):
        tasks = [
            asyncio.ensure_future(CALLS[name](manager))
            for name in ("create", "touch", "terminate", "terminate many") * 5
        ]
        await eventually(lambda: manager.database.connections_in_use > 0, "a call to wait for the database")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
    await nothing_is_left(manager, rows)
    assert await manager.touch_session("kept")


async def test_a_close_waits_for_what_cancelled_callers_left(
    engine_settings: dict[str, Any], rows: Rows, open_manager: OpenManager
) -> None:
    """Leaving right after callers were cancelled closes every connection and thread all the same."""
    async with SessionManager.open(**engine_settings, touch_interval=timedelta(0)) as manager:
        await manager.create_session("kept")
        tasks = [asyncio.ensure_future(call(manager)) for call in CALLS.values() for _ in range(3)]
        for _ in range(4):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
    await asyncio.wait(tasks)
    assert manager.database.connections_in_use == 0
    await nothing_is_left(await open_manager(), rows)


async def test_calls_in_flight_are_answered_before_a_close(engine_settings: dict[str, Any]) -> None:
    """Leaving waits for calls that were made before; later ones are told that the manager is closed."""
    async with SessionManager.open(**engine_settings) as manager:
        creations = [asyncio.ensure_future(manager.create_session()) for _ in range(20)]
        await asyncio.sleep(0)
    assert len(set(await together(*creations))) == 20
    for call in CALLS.values():
        with pytest.raises(McpSessionsError, match="closed"):
            await call(manager)


@pytest.mark.parametrize("touch_interval", [timedelta(0), timedelta(minutes=1)])
async def test_uses_in_flight_are_answered_before_a_close(
    engine_settings: dict[str, Any], touch_interval: timedelta
) -> None:
    """A use may take two statements: leaving waits for the second one, too."""
    async with SessionManager.open(**engine_settings, touch_interval=touch_interval) as manager:
        await manager.create_session("kept")
        uses = [asyncio.ensure_future(manager.resume_session(name, Owner())) for name in ("kept", "unknown") * 3]
        await asyncio.sleep(0)
    kept = [session is not None for session in await asyncio.gather(*uses)]
    assert kept == [True, False] * 3


async def test_a_cleanup_cancelled_amid_its_run_frees_the_slot(open_manager: OpenManager, rows: Rows) -> None:
    """A cancelled run ends its record, so that the next one need not wait for a lease."""
    manager = await open_manager(cleanup_batch_size=1)
    await together(*(manager.create_session() for _ in range(20)))
    await rows.age_all(timedelta(days=1))

    def cancel(_removed: int) -> None:
        run.cancel()

    run = asyncio.ensure_future(manager.cleanup_stale_sessions(progress=cancel))
    with suppress(asyncio.CancelledError):
        await run
    assert run.cancelled()
    assert await rows.value("SELECT count(*) AS n FROM cleanup_runs WHERE running_slot IS NOT NULL") == 0
    assert await asyncio.wait_for(manager.cleanup_stale_sessions(), 10) > 0
    assert await rows.count() == 0
