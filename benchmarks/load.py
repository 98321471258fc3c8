"""A burst of load: some callers in a closed loop for a fixed time, and what came of it."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

import psutil

from benchmarks.contenders.base import Call

_WARM_UP_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Measured:
    """One burst, or the medians of several. Durations are in seconds; CPU is per call, of client and server.

    ``lost`` is the share of its calls that were acknowledged and left nothing behind.
    """

    calls: float
    per_second: float
    p50: float
    p99: float
    client_cpu: float
    server_cpu: float
    lost: float = 0.0

    @property
    def cpu(self) -> float:
        """The processor time of one call, on both sides."""
        return self.client_cpu + self.server_cpu

    @classmethod
    def median_of(cls, bursts: Sequence[Self]) -> Self:
        """Return the median of each figure by itself."""
        rows = [asdict(burst) for burst in bursts]
        return cls(**{name: median(row[name] for row in rows) for name in rows[0]})


class ServerCpu:
    """The processor time of a server: of its process and of all its children, those that ended meanwhile excepted."""

    def __init__(self, pid: int | None) -> None:
        self._server = None if pid is None else psutil.Process(pid)

    def by_process(self) -> dict[int, float]:
        """Return the seconds used so far by each process of the server."""
        if self._server is None:
            return {}
        used: dict[int, float] = {}
        for process in (self._server, *self._server.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[process.pid] = times.user + times.system
        return used

    def used(self) -> float:
        """Return the seconds used so far by all of it."""
        return sum(self.by_process().values())

    def since(self, before: dict[int, float]) -> float:
        """Return the seconds used since ``by_process`` answered ``before``."""
        return sum(used - before.get(pid, 0.0) for pid, used in self.by_process().items())


async def burst(
    call: Call,
    *,
    numbers: Iterator[int],
    callers: int,
    seconds: float,
    server: ServerCpu,
    client_cpu: Callable[[], float] = time.process_time,
) -> Measured:
    """Let ``callers`` call in a closed loop, each time for the session of the next number, after a short warm-up.

    ``client_cpu`` tells the processor time that the server's client has used so far, where that is another process.
    """
    await _closed_loop(call, numbers, callers, _for(_WARM_UP_SECONDS))
    return await measured(lambda: _closed_loop(call, numbers, callers, _for(seconds)), server, client_cpu)


async def during(task: "asyncio.Task[Any]", call: Call, *, numbers: Iterator[int], callers: int) -> Measured:
    """Let ``callers`` call in a closed loop for as long as the task takes; only their times are measured."""

    def calls() -> Awaitable[list[float]]:
        return _closed_loop(call, numbers, callers, lambda: not task.done())

    came = await measured(calls, ServerCpu(None), time.process_time)
    await task
    return came


async def each_once(call: Call, *, sessions: int, server: ServerCpu, client_cpu: Callable[[], float]) -> Measured:
    """Let one caller call once for each session, without a warm-up."""
    return await measured(lambda: _closed_loop(call, iter(range(sessions)), 1, lambda: True), server, client_cpu)


async def measured(
    calls: Callable[[], Awaitable[list[float]]], server: ServerCpu, client_cpu: Callable[[], float]
) -> Measured:
    """Return what came of calls that tell how long each of them took, in seconds."""
    gc.collect()
    gc.freeze()  # the population is not the contenders' garbage to look at
    server_before, client_before, started = server.by_process(), client_cpu(), time.perf_counter()
    latencies = await calls()
    elapsed, client_used = time.perf_counter() - started, client_cpu() - client_before
    latencies.sort()
    count = len(latencies)
    return Measured(
        calls=count,
        per_second=count / elapsed,
        p50=_percentile(latencies, 0.50),
        p99=_percentile(latencies, 0.99),
        client_cpu=client_used / count,
        server_cpu=server.since(server_before) / count,
    )


def _for(seconds: float) -> Callable[[], bool]:
    clock = time.perf_counter
    deadline = clock() + seconds
    return lambda: clock() < deadline


async def _closed_loop(call: Call, numbers: Iterator[int], callers: int, goes_on: Callable[[], bool]) -> list[float]:
    latencies: list[float] = []
    clock, note = time.perf_counter, latencies.append

    async def caller() -> None:
        for number in numbers:
            if not goes_on():
                return
            began = clock()
            await call(number)
            note(clock() - began)
            # As between two requests: without this, who gives a connection back takes it again before all who wait.
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return latencies


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def as_json(measured: Measured) -> dict[str, Any]:
    """Return the figures by name."""
    return asdict(measured)
