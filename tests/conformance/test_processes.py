"""Several processes on one database: what managers in one process cannot show."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.rows import Rows

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def worker(task: str, *arguments: str) -> AsyncIterator[Process]:
    """Run a worker process; nothing of it outlives the test."""
    command = (sys.executable, "-W", "error", "-m", "tests.support.lives", task, *arguments)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def said(process: Process) -> Any:
    """Wait for the next thing that a worker says; None once it has ended."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    return json.loads(line) if line else None


async def result(task: str, *arguments: str) -> list[Any]:
    """Run a worker process to its good end, and return all that it said."""
    async with worker(task, *arguments) as process:
        output, errors = await asyncio.wait_for(process.communicate(), 40)
        assert (process.returncode, errors.decode()) == (0, "")
        return [json.loads(line) for line in output.splitlines()]


@pytest.mark.slow
async def test_many_processes_share_a_database(database_url: str, open_manager: OpenManager) -> None:
    """Processes that live whole lives on one database meet no busy error and no session of another's."""
    prefixes = [f"worker-{number}" for number in range(3)]
    assert await together(*(result("live", database_url, each) for each in prefixes)) == [[each] for each in prefixes]
    manager = await open_manager()
    assert await manager.get_active_session_count() == len(prefixes)
    assert all(await together(*(manager.is_session_valid(f"{each}-kept") for each in prefixes)))


@pytest.mark.slow
async def test_many_processes_make_a_new_file_together(empty_sqlite_url: str) -> None:
    """Processes that start at once on a file that is not there yet make and migrate it once, and all can use it."""
    prefixes = [f"worker-{number}" for number in range(3)]
    assert await together(*(result("live", empty_sqlite_url, each) for each in prefixes)) == [[p] for p in prefixes]


@pytest.mark.slow
async def test_one_of_many_processes_creates_an_id(database_url: str, rows: Rows) -> None:
    """Of processes that create the same ids at the same time, exactly one creates each."""
    ids = [f"same-{number}" for number in range(20)]
    async with worker("create", database_url, *ids) as one, worker("create", database_url, *ids) as other:
        workers = (one, other)
        assert await together(*map(said, workers)) == ["ready", "ready"]
        for process in workers:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        created = [await together(*map(said, workers)) for _ in ids]
    assert [sorted(each) for each in created] == [[False, True]] * len(ids)
    assert await rows.count() == len(ids)


async def test_an_end_is_final_in_every_process(database_url: str, open_manager: OpenManager, rows: Rows) -> None:
    """Sessions that another process keeps touching are ended for it too, and none of its touches brings one back."""
    manager = await open_manager()
    ids = await together(*(manager.create_session(f"session-{number}") for number in range(10)))
    async with worker("touch", database_url, *ids) as process:
        assert await said(process) == "touched"
        assert all(await together(*(manager.terminate_session(each) for each in ids)))
        assert not any(await together(*(manager.is_session_valid(each) for each in ids)))
        while (word := await said(process)) == "touched":
            pass
        assert word == "none"
    assert await rows.count() == 0


@pytest.mark.slow
async def test_a_cleaner_that_is_killed_is_replaced(database_url: str, open_manager: OpenManager, rows: Rows) -> None:
    """A process killed amid its cleanup keeps what it removed removed, and the slot until its lease is over."""
    manager = await open_manager()
    await together(*(manager.create_session() for _ in range(600)))
    await rows.age_all(timedelta(days=1))
    await manager.create_session("live")
    async with worker("clean", database_url) as process:
        assert await said(process) == 1
        process.kill()
        await process.wait()
    left = await rows.count()
    assert 1 < left <= 600
    assert await manager._cleanup.run_unless_recent(timedelta(0), asyncio.Event()) is None
    await rows.age_all(timedelta(seconds=31), table="cleanup_runs")
    assert await manager.cleanup_stale_sessions() == left - 1
    assert await manager.is_session_valid("live")
    errors = await rows.fetch("SELECT error FROM cleanup_runs WHERE error IS NOT NULL")
    assert len(errors) == 1
