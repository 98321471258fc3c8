"""How many sessions live, by the database's count, for whoever collects metrics from whichever thread.

Counting costs more the more sessions there are, and a collection must not wait for a database. So a collection gets
the last count and has it renewed, at most every half minute; one that could not be renewed is not told any more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

from mcp_sessions.errors import McpSessionsError

COUNT_EVERY = 30.0
"""Seconds between two counts at least."""
_TOLD_FOR = 3 * COUNT_EVERY
"""Seconds for which a count that was not renewed is told."""


class LiveCount:
    """The live sessions of one database."""

    def __init__(self, count: Callable[[], Awaitable[int]]) -> None:
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._counting: asyncio.Task[None] | None = None
        self._asked_at = self._counted_at = float("-inf")
        self._counted: int | None = None

    def value(self) -> int | None:
        """Return the last count, and have it renewed where it is time; None where there is none. From any thread."""
        now = time.monotonic()
        if now - self._asked_at >= COUNT_EVERY and not self._loop.is_closed():
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._ask)
        return self._counted if now - self._counted_at < _TOLD_FOR else None

    def _ask(self) -> None:
        if self._counting is None or self._counting.done():
            self._counting = self._loop.create_task(self._renew(), context=Context())

    async def _renew(self) -> None:
        try:
            self._counted = await self._count()
        except McpSessionsError:
            return  # others tell of the fault; this number is just not there any more
        self._counted_at = time.monotonic()

    async def close(self) -> None:
        """Count no more."""
        self._asked_at = float("inf")
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)
