"""Patience with others that are at the same row: attempts, with pauses between them, for a bounded time."""

import random
import time
from asyncio import sleep
from datetime import timedelta

_FIRST_PAUSE_SECONDS = 0.0005


class Patience:
    """Pauses between attempts, ever longer and by chance, so that those who meet do not meet again."""

    def __init__(self, bound: timedelta, *, longest_pause: timedelta = timedelta(milliseconds=20)) -> None:
        self._until = time.monotonic() + bound.total_seconds()
        self._most = longest_pause.total_seconds()
        self._longest = _FIRST_PAUSE_SECONDS

    async def pause(self) -> bool:
        """Wait a little; False, at once, where the time is over."""
        if time.monotonic() > self._until:
            return False
        await sleep(random.uniform(0, self._longest))  # noqa: S311 - nobody gains by guessing it
        self._longest = min(2 * self._longest, self._most)
        return True
