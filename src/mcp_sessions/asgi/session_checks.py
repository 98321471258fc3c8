"""The regular look at the database, at which of the sessions that this worker holds are still alive.

What is in flight is recorded as activity by the same question, so that no idle timeout cuts off a long request or an
open stream. One statement asks for all sessions together. A fault of the database says nothing about any session, so
it ends nothing.
"""

import asyncio
import logging

from mcp_sessions.asgi.responses import NOT_FOUND
from mcp_sessions.asgi.serving_context import Worker
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log, logger

_PER_IDLE_TIMEOUT = 3  # a session in use must be seen in time, and once again if the first time fails


async def pulse(worker: Worker) -> None:
    """Look at the database at regular intervals, for ever."""
    interval = min(worker.settings.check_interval, worker.sessions.settings.timeouts.idle / _PER_IDLE_TIMEOUT)
    while True:
        await asyncio.sleep(interval.total_seconds())
        try:
            await beat(worker)
        except McpSessionsError as error:
            log(logging.WARNING, "check_failed", "live sessions not checked: %(error)s", error=str(error))
        except Exception:  # noqa: BLE001  # one failed round must not leave ended sessions open for good
            logger.exception("live sessions not checked", extra={"operation": "check_failed"})


async def beat(worker: Worker) -> None:
    """Look once: touch what is in use, close what has ended, let go what nobody uses."""
    in_use, idle = worker.live.in_use(), worker.live.idle()
    alive = await worker.sessions.touch_digests(in_use) | await worker.sessions.live_digests(idle)
    for digest in {*in_use, *idle} - alive:
        worker.live.end(digest, NOT_FOUND)
    worker.live.let_go_idle(worker.settings.let_go_after)
