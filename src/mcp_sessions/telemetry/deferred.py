"""Durations recorded a moment later, many in a row: what is costly once in a while is cheap in a row.

An SDK takes some 10 µs to record a duration where it has just done so, and several times that in between other work,
which a client would wait for. A collection takes what still waits with it.
"""

import asyncio
from collections import deque

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

_SECONDS = 0.05
_AT_ONCE = 32
"""How many are recorded in a row before others have their turn."""

_Attributes = dict[str, str | int]


class DeferredRecords:
    """What is still to be recorded."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Histogram, float, _Attributes, Context]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None  # where it is about to be recorded

    def add(self, histogram: Histogram, seconds: float, attributes: _Attributes, context: Context) -> None:
        """Record a duration soon; in an event loop."""
        self._waiting.append((histogram, seconds, attributes, context))
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(_SECONDS, self._some)

    def all(self) -> None:
        """Record all now; from any thread."""
        while self._waiting:
            self._next()

    def _some(self) -> None:
        for _ in range(_AT_ONCE):
            self._next()
        if self._waiting and self._loop is not None:
            self._loop.call_soon(self._some)
        else:
            self._loop = None

    def _next(self) -> None:
        try:
            histogram, seconds, attributes, context = self._waiting.popleft()
        except IndexError:  # none is left, or another thread has taken it
            return
        histogram.record(seconds, attributes, context)
