"""State under real concurrency: updates by many workers, ends amid writes, processes that are killed."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mcp_sessions import SessionEndedError, SessionManager
from tests.support.concurrency import together
from tests.support.managers import ON_POSTGRES, OpenManager
from tests.support.rows import Rows
from tests.support.states import one_more, opened


def more_by(amount: int) -> Callable[[int | None], int]:
    """Return a function that adds an amount."""
    return lambda there: (there or 0) + amount


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.long)])
async def test_random_updates_on_workers_are_all_made(open_manager: OpenManager, count: int) -> None:
    """Of thousands of updates of few entries by callers on four workers, at chosen moments, none is lost."""
    workers = [await open_manager() for _ in range(4)]
    sessions = [await opened(workers[0]) for _ in range(3)]
    chance = random.Random(20261124)  # noqa: S311 - the same in every run
    expected: dict[tuple[int, str], int] = {}

    async def caller(worker: SessionManager, updates: list[tuple[int, str, int]]) -> None:
        for place, name, amount in updates:
            await worker.state(sessions[place]).update(name, more_by(amount))

    callers: list[list[tuple[int, str, int]]] = [[] for _ in range(40)]
    for number in range(count):
        place, name, amount = chance.randrange(3), chance.choice("ab"), chance.randrange(100)
        expected[place, name] = expected.get((place, name), 0) + amount
        callers[number % 40].append((place, name, amount))
    await together(*(caller(workers[n % 4], updates) for n, updates in enumerate(callers)))
    found = {(place, name): await workers[0].state(sessions[place]).get(name) for place, name in expected}
    assert found == expected


async def test_no_write_succeeds_after_an_end(open_manager: OpenManager, rows: Rows) -> None:
    """Amid writes by two workers a session ends: each writer is told so, and nothing is left of its state."""
    one, other = await open_manager(), await open_manager()

    async def write(manager: SessionManager, name: str, state: Any) -> None:
        while True:
            await manager.state(state).update(name, one_more)
            await manager.state(state).set(name, 1)

    for _ in range(5):
        session = await opened(one)
        writers = [asyncio.create_task(write(each, name, session)) for each in (one, other) for name in "abc"]
        while await one.state(session).get("c") is None:  # noqa: ASYNC110 - it is another worker's
            await asyncio.sleep(0)
        assert await other.terminate_digest(session.digest)
        answers = await asyncio.gather(*writers, return_exceptions=True)
        assert [type(each) for each in answers] == [SessionEndedError] * 6
        assert await rows.count("session_state") == 0


async def test_a_killed_process_leaves_whole_updates(open_manager: OpenManager, database_url: str) -> None:
    """What a process was told had been made is there after SIGKILL, and at most the update in flight besides."""
    manager = await open_manager()
    session_id = await manager.create_session()
    command = [sys.executable, "-m", "tests.support.lives", "count_up", database_url, session_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - its lines are awaited
        assert process.stdout is not None
        told = [int(await asyncio.to_thread(process.stdout.readline)) for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        told += map(int, await asyncio.to_thread(process.stdout.readlines))
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    state = manager.state(session)
    assert await state.get("visits") in (told[-1], told[-1] + 1)
    assert await state.update("visits", one_more) - 1 in (told[-1], told[-1] + 1)


async def test_a_cancelled_caller_takes_nobody_with_it(manager: SessionManager) -> None:
    """Callers who give up while their updates wait or are under way leave the others' updates alone."""
    state = manager.state(await opened(manager))
    patient, hasty = [], []
    for _ in range(30):
        patient.append(asyncio.create_task(state.update("visits", one_more)))
        hasty.append(asyncio.create_task(state.update("visits", one_more)))
    await asyncio.sleep(0)
    for task in hasty:
        task.cancel()
    told = await together(*patient)
    assert len(set(told)) == len(told)
    made = await state.get("visits")
    assert len(patient) <= made <= len(patient) + len(hasty)


@ON_POSTGRES
async def test_a_session_that_is_held_up_holds_up_no_others(manager: SessionManager, rows: Rows) -> None:
    """While somebody keeps the row of one session locked, changes of others that share its statements are made."""
    stuck, free = await opened(manager), await opened(manager)
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among([stuck])} FOR UPDATE"):
        waiting = asyncio.create_task(manager.state(stuck).set("cart", 1))
        async with asyncio.timeout(5):
            for number in range(20):
                assert await manager.state(free).update("visits", one_more) == number + 1
        assert not waiting.done()
    await waiting
    assert await manager.state(stuck).get("cart") == 1
