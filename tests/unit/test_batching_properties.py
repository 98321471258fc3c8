"""Joining concurrent calls, in whatever order calls, cancellations and failing runs come."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions.batching.batcher import Batcher
from mcp_sessions.errors import OverloadedError

Step = str | int
"""What happens next; a number cancels the caller of that number."""


class RunFailedError(Exception):
    """The whole run failed."""


class Play:
    """Plays steps against a batcher, whose items are 0, 1, 2 … and whose answers are their negatives."""

    def __init__(self, max_batch: int, max_queued: int) -> None:
        self.batcher = Batcher(self.run, name="play", max_batch=max_batch, max_queued=max_queued)
        self.calls: list[asyncio.Task[int]] = []
        self.bad: set[int] = set()
        self.runs: list[list[int]] = []
        self.failed: set[int] = set()
        self.cancelled_before_their_run: set[int] = set()
        self.endings: asyncio.Queue[str] = asyncio.Queue()
        self.in_flight = False

    @property
    def carried(self) -> list[int]:
        return [item for items in self.runs for item in items]

    async def run(self, items: Sequence[int]) -> Sequence[int | Exception]:
        assert not self.in_flight
        self.in_flight = True
        self.runs.append(list(items))
        ending = await self.endings.get()
        self.in_flight = False
        if ending == "fail":
            self.failed.update(items)
            raise RunFailedError
        return [KeyError(item) if item in self.bad else -item for item in items]

    async def step(self, step: Step) -> None:
        match step:
            case "turn":
                await asyncio.sleep(0)
            case "finish" | "fail":
                self.endings.put_nowait(step)
            case int():
                self.cancel(step)
            case _:
                if step == "submit bad":
                    self.bad.add(len(self.calls))
                self.calls.append(asyncio.create_task(self.batcher.submit(len(self.calls))))

    def cancel(self, caller: int) -> None:
        if caller < len(self.calls) and self.calls[caller].cancel() and caller not in self.carried:
            self.cancelled_before_their_run.add(caller)

    async def end(self) -> None:
        for _ in self.calls:
            self.endings.put_nowait("finish")
        async with asyncio.timeout(5):
            await asyncio.gather(*self.calls, return_exceptions=True)
            await self.batcher.close()


def check(played: Play, max_batch: int) -> None:
    """Hold the runs and every caller's outcome against the promises."""
    carried = played.carried
    assert carried == sorted(set(carried))
    assert all(1 <= len(items) <= max_batch for items in played.runs)
    assert not played.cancelled_before_their_run & set(carried)
    for item, call in enumerate(played.calls):
        if call.cancelled():
            continue
        error = call.exception()
        if item not in carried:
            assert isinstance(error, OverloadedError)
        elif item in played.failed:
            assert isinstance(error, RunFailedError)
        elif item in played.bad:
            assert isinstance(error, KeyError)
            assert error.args == (item,)
        else:
            assert call.result() == -item


STEPS = st.sampled_from(["submit", "submit", "submit bad", "turn", "turn", "finish", "fail"]) | st.integers(0, 20)


@given(steps=st.lists(STEPS, max_size=60), max_batch=st.integers(1, 5), max_queued=st.integers(1, 8))
def test_everybody_gets_what_is_theirs(steps: list[Step], max_batch: int, max_queued: int) -> None:
    """Each call is run once at most, in order, and every one not cancelled gets its own outcome."""

    async def play() -> Play:
        played = Play(max_batch, max_queued)
        for step in steps:
            await played.step(step)
        await played.end()
        return played

    check(asyncio.run(play()), max_batch)
