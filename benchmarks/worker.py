"""The process of one contender: it fills its store, then answers each order on its input with a line on its output."""

import asyncio
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.contenders import contender
from benchmarks.contenders.base import Contender
from benchmarks.load import ServerCpu, as_json, burst
from benchmarks.population import MOST_IN_USE, known_client


async def serve(kind: str, url: str, server_pid: int | None, sessions: int) -> None:
    """Say ``{}`` once the store is filled; then carry out one burst for each line of input."""
    async with contender(kind)(url) as one:
        await one.fill(sessions)
        in_use = random.Random(0).sample(range(sessions), min(sessions, MOST_IN_USE))  # noqa: S311 - not a secret
        for number in in_use:
            known_client(number)  # or whoever calls more often would pay more for making them up
        _say({})
        population, server = _Population(in_use), ServerCpu(server_pid)
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(await _carry_out(one, json.loads(line), population, server))


class _Population:
    """The sessions in use, or the first of them; each burst goes on where the last one ended."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._turns: dict[int | None, Iterator[int]] = {}

    def numbers(self, count: int | None) -> Sequence[int]:
        """Return that many of them."""
        return self._numbers[:count]

    def turns(self, count: int | None) -> Iterator[int]:
        """Return an endless iterator over that many of them, always the same one."""
        return self._turns.setdefault(count, itertools.cycle(self.numbers(count)))


async def _carry_out(
    one: Contender, order: dict[str, Any], population: _Population, server: ServerCpu
) -> dict[str, Any]:
    await one.prepare(order["operation"], population.numbers(order["in_use"]))
    measured = await burst(
        one.calls()[order["operation"]],
        numbers=population.turns(order["in_use"]),
        callers=order["callers"],
        seconds=order["seconds"],
        server=server,
    )
    return as_json(replace(measured, lost=await one.lost()))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    kind, url, pid, sessions = sys.argv[1:]
    asyncio.run(serve(kind, url, int(pid) or None, int(sessions)))
