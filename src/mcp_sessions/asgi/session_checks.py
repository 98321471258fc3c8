"""The regular check, against the database, which of the sessions that this worker holds app sessions for are live.

What is in flight is recorded as activity by the same question, so that no idle timeout cuts off a long request or an
open stream. One statement asks for all sessions together. A fault of the database says nothing about any session, so
it ends nothing.
"""

import asyncio
import logging

from mcp_sessions.asgi.responses import NOT_FOUND
from mcp_sessions.asgi.serving_context import ServingContext
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log, logger

_PER_IDLE_TIMEOUT = 3  # a session in use must be seen in time, and once again if the first time fails


async def check_regularly(context: ServingContext) -> None:
    """Check at regular intervals, for ever."""
    interval = min(context.settings.check_interval, context.sessions.settings.timeouts.idle / _PER_IDLE_TIMEOUT)
    while True:
        await asyncio.sleep(interval.total_seconds())
        try:
            await check_sessions(context)
        except McpSessionsError as error:
            log(logging.WARNING, "check_failed", "live sessions not checked: %(error)s", error=str(error))
        except Exception:  # noqa: BLE001  # one failed round must not leave ended sessions open for good
            logger.exception("live sessions not checked", extra={"operation": "check_failed"})


async def check_sessions(context: ServingContext) -> None:
    """Check once: touch what is in use, close what has ended, let go what nobody uses."""
    in_use, idle = context.app_sessions.in_use(), context.app_sessions.idle()
    live = await context.sessions.touch_digests(in_use) | await context.sessions.live_digests(idle)
    for digest in {*in_use, *idle} - live:
        context.app_sessions.end(digest, NOT_FOUND)
    context.app_sessions.let_go_idle(context.settings.let_go_after)
