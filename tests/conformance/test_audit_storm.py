"""The trail in a storm: processes that do everything at once, killed in the middle of it, again and again."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.managers import OpenManager, eventually_in_sql
from tests.support.rows import Rows
from tests.support.storm import CREATORS
from tests.support.trail import Trail

ROOT = Path(__file__).parents[2]
ENDS = ("terminated", "revoked", "expired")


class Worker:
    """A process of the storm, and the changes that it was told are done."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.acknowledged: Counter[tuple[str, str]] = Counter()

    async def is_ready(self) -> None:
        """Wait until it has begun."""
        assert self._process.stdout is not None
        assert (await asyncio.wait_for(self._process.stdout.readline(), 30)).startswith(b"ready")

    async def listen(self) -> None:
        """Take down what it says until it is gone; a line that was cut off is no word."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.endswith(b"\n"):
                what, digest, count = line.decode().split()
                self.acknowledged[what, digest] += int(count)

    async def kill(self) -> None:
        """End it hard, amid whatever it does."""
        assert self._process.returncode is None, "it ended by itself"
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Let it finish what it does; it must end well, and have had nothing to complain of."""
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        errors = await asyncio.wait_for(self._process.stderr.read(), 30)
        assert (await self._process.wait(), errors.decode()) == (0, "")


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[Worker]:
    """Run a process of the storm; nothing of it outlives the test."""
    command = (sys.executable, "-W", "error", "-m", "tests.support.storm", url)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    listening: asyncio.Task[None] | None = None
    try:
        started = Worker(process)
        await started.is_ready()
        listening = asyncio.create_task(started.listen())
        yield started
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if listening is not None:
            await listening


class Scale(NamedTuple):
    """How many workers rage at once, how many are killed, and how many events are written before each is."""

    at_once: int
    kills: int
    events: int


async def storm(url: str, rows: Rows, scale: Scale) -> list[Worker]:
    """Let workers rage; after so many events kill the oldest and start another; stop those that are left in peace."""

    async def much_has_happened() -> None:
        enough = await rows.count("session_events") + scale.events

        async def written() -> bool:
            return await rows.count("session_events") >= enough

        await eventually_in_sql(written, "the storm to go on", seconds=60)

    async with AsyncExitStack() as stack:
        started = await asyncio.gather(*(stack.enter_async_context(worker(url)) for _ in range(scale.at_once)))
        for number in range(scale.kills):
            await much_has_happened()
            await started[number].kill()
            if len(started) <= scale.kills:
                started.append(await stack.enter_async_context(worker(url)))
        await much_has_happened()
        await asyncio.gather(*(each.stop() for each in started[scale.kills :]))
    return started


async def servers_have_noticed(rows: Rows) -> None:
    """Wait until Postgres has rolled back, or committed, the last statements of those killed."""

    async def nobody_left() -> bool:
        busy = "datname = current_database() AND application_name = 'mcp-sessions'"
        return await rows.count(f"pg_stat_activity WHERE {busy}") == 0

    if not rows.on_sqlite:
        await eventually_in_sql(nobody_left, "the connections of killed workers to be gone")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scale", [Scale(3, 2, 60), pytest.param(Scale(4, 25, 500), marks=pytest.mark.long)], ids=str)
@pytest.mark.slow
async def test_the_trail_agrees_after_a_storm(
    database_url: str, open_manager: OpenManager, rows: Rows, trail: Trail, scale: Scale
) -> None:
    """Whatever was killed when, each life began and ended exactly once, and no acknowledged change is missing."""
    workers = await storm(database_url, rows, scale)
    await servers_have_noticed(rows)
    await trail.agrees_with_the_table()

    recorded = Counter((event["kind"], bytes(event["session_digest"]).hex()) for event in await trail.events())
    acknowledged = sum((each.acknowledged for each in workers), Counter[tuple[str, str]]())
    for (kind, digest), count in acknowledged.items():
        if digest != "-":
            assert recorded[kind, digest] >= count
    totals, told = Counter[str](), Counter[str]()
    for (kind, _), count in recorded.items():
        totals[kind] += count
    for (kind, _), count in acknowledged.items():
        told[kind] += count
    assert set(totals) <= {"created", *ENDS}
    assert all(totals[kind] >= told[kind] for kind in ("created", *ENDS))
    assert told["created"] > 0
    assert sum(told[kind] for kind in ENDS) > 0
    assert totals["created"] <= told["created"] + scale.kills * CREATORS
    assert totals["terminated"] <= told["terminated"] + scale.kills

    manager = await open_manager()
    left = await rows.count()
    assert await manager.clear_all_sessions() == left
    assert totals["created"] == sum(totals[kind] for kind in ENDS) + left
    assert len(await trail.events(kind="cleared")) == left
    await trail.agrees_with_the_table()
