"""Updates: read, have the function called while nothing is held, store where the version is still the one read.

Updates of one entry that meet in this process are one such step: each function gets what the one before it returned,
and what the last one returned is stored. One that raises, or returns what cannot be stored, is left out.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mcp_sessions.db.repositories import Life, Outcome
from mcp_sessions.errors import InvalidInputError, McpSessionsError
from mcp_sessions.state.limits import StateLimits
from mcp_sessions.state.values import value_of


class Update(NamedTuple):
    """A function that is to change an entry, with the context of whoever gave it."""

    life: Life
    name: str
    function: Callable[[Any], Any]
    context: contextvars.Context


class Updated(NamedTuple):
    """What became of an update, and the JSON text that its function returned."""

    outcome: Outcome
    text: str


class Found(NamedTuple):
    """An entry as it was read: plain JSON text and version, both None where there is none."""

    text: str | None
    version: int | None


Find = Callable[[Sequence[tuple[Life, str]]], Awaitable[Sequence[Found | Exception]]]
Swap = Callable[[Life, str, str, int | None], Awaitable[Outcome]]
Answer = Updated | Exception


@dataclass
class _Step:
    """The updates of one entry in one batch, by their places, and what their functions returned."""

    life: Life
    name: str
    updates: dict[int, Update] = field(default_factory=dict)
    returned: dict[int, str] = field(default_factory=dict)


class Updates:
    """Carries out batches of updates; ``find`` reads entries, ``swap`` stores one if the version is as expected."""

    def __init__(self, find: Find, swap: Swap, limits: StateLimits) -> None:
        self._find = find
        self._swap = swap
        self._limits = limits

    async def run(self, updates: Sequence[Update]) -> Sequence[Answer]:
        """Carry out updates, and return what became of each."""
        steps: dict[tuple[Life, str], _Step] = {}
        for place, update in enumerate(updates):
            step = steps.setdefault((update.life, update.name), _Step(update.life, update.name))
            step.updates[place] = update
        found = await self._find(list(steps))
        taken = await asyncio.gather(*(self._take(*each) for each in zip(steps.values(), found, strict=True)))
        answers = {place: answer for step in taken for place, answer in step.items()}
        return [answers[place] for place in range(len(updates))]

    async def _take(self, step: _Step, found: Found | Exception) -> dict[int, Answer]:
        if isinstance(found, Exception):
            return {place: _copy_of(found) for place in step.updates}
        answers = self._computed(step, found.text)
        if not step.returned:
            return answers
        text = list(step.returned.values())[-1]
        try:
            outcome = await self._swap(step.life, step.name, text, found.version)
        except McpSessionsError as error:
            return answers | {place: _copy_of(error) for place in step.returned}
        if outcome in ("entries", "size") and len(step.returned) > 1:
            outcome = "apart"
        return answers | {place: Updated(outcome, text) for place, text in step.returned.items()}

    def _computed(self, step: _Step, text: str | None) -> dict[int, Answer]:
        """Have the functions called, one after the other, and return the errors of those that failed."""
        failed: dict[int, Answer] = {}
        for place, update in step.updates.items():
            try:
                text = step.returned[place] = self._limits.text_of(step.name, _result_of(update, text))
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever gave the function
                failed[place] = error
        return failed


def _result_of(update: Update, text: str | None) -> Any:
    result = update.context.run(update.function, None if text is None else value_of(text))
    if inspect.iscoroutine(result):
        result.close()
        raise InvalidInputError("the function of an update must not be async: await what it needs before")
    return result


def _copy_of(error: Exception) -> Exception:
    """Make an error for each caller: one object raised in many tasks would mix up their tracebacks."""
    twin = type(error).__new__(type(error), *error.args)
    vars(twin).update(vars(error))
    twin.__cause__ = error
    return twin
