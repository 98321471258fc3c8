"""The schedule of the cleanup: every worker keeps it, and whichever comes first does the run for all."""

import asyncio
import logging
import random
from contextlib import suppress
from datetime import timedelta

from mcp_sessions.cleanup.run import Cleanup
from mcp_sessions.logs import log

_MOST_PATIENCE = 8


class CleanupSchedule:
    """Runs the cleanup every interval, with jitter; a failed pass is logged and tried again with patience."""

    def __init__(self, cleanup: Cleanup, interval: timedelta) -> None:
        self._cleanup = cleanup
        self._interval = interval
        self._running: tuple[asyncio.Task[None], asyncio.Event] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the schedule was started and not stopped since."""
        return self._running is not None

    def start(self) -> None:
        """Start the schedule; nothing happens where it runs already."""
        if self._running is None:
            stopping = asyncio.Event()  # one of its own: the schedule before may still be stopping
            task = asyncio.get_running_loop().create_task(self._passes(stopping), name="mcp-sessions cleanup")
            self._running = task, stopping
            log(
                logging.INFO,
                "cleanup_started",
                "cleanup started, every %(interval)s",
                interval=str(self._interval),
            )

    async def stop(self) -> None:
        """Stop the schedule after the batch that is in flight; nothing happens where it does not run."""
        if self._running is not None:
            (task, stopping), self._running = self._running, None
            stopping.set()
            await task
            log(logging.INFO, "cleanup_stopped", "cleanup stopped")

    async def _passes(self, stopping: asyncio.Event) -> None:
        patience = 1
        while not await _set_within(stopping, self._interval * patience * random.uniform(0.9, 1.1)):  # noqa: S311 - jitter
            try:
                # All workers keep the same schedule: what one did a moment ago need not be done again.
                await self._cleanup.run_unless_recent(0.8 * self._interval, stopping)
                patience = 1
            except Exception as fault:  # noqa: BLE001 - whatever failed this pass may not fail the next one
                patience = min(2 * patience, _MOST_PATIENCE)
                log(
                    logging.ERROR,
                    "cleanup_failed",
                    "cleanup failed, next try in about %(next_try)s: %(reason)s",
                    next_try=str(self._interval * patience),
                    reason=str(fault) or type(fault).__name__,
                )


async def _set_within(event: asyncio.Event, delay: timedelta) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(delay.total_seconds()):
            await event.wait()
    return event.is_set()
