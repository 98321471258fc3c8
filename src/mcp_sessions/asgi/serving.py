"""A session goes on, or ends: requests that name one."""

import asyncio
import logging
from dataclasses import replace
from functools import partial

from mcp_sessions.asgi.answers import DELETE_DISABLED, ENDED, NOT_FOUND, UNAVAILABLE
from mcp_sessions.asgi.body import RepeatableBody, is_short, request_id_of
from mcp_sessions.asgi.exchange import readable, with_session_id
from mcp_sessions.asgi.relay import NOBODYS_SESSION, Relay, is_refused, refuse
from mcp_sessions.asgi.restore import RestoreFailedError
from mcp_sessions.asgi.types import Request
from mcp_sessions.asgi.worker import SessionGoneError, Worker
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log
from mcp_sessions.model import Owner, Session, digest_of

SCOPE_KEY = "mcp_sessions.session"
"""Where the app finds the durable ``Session`` in the ASGI scope: the same on every worker, and without its id."""

_ATTEMPTS = 2  # the app drops a session that it has just opened only if something is wrong with it


async def end_session(worker: Worker, session_id: str, owner: Owner, request: Request) -> None:
    """End a session on its client's DELETE, unless the app refuses it: in the database first, then here."""
    if not worker.settings.client_delete:
        await refuse(worker.app, DELETE_DISABLED, request)
    elif await is_refused(worker.app, request):
        return
    elif await worker.sessions.terminate_session(session_id, owner=owner, reason="terminated"):
        worker.live.end(digest_of(session_id), NOT_FOUND)  # the app takes its time in the background
        await ENDED(request.send)
    else:
        await NOT_FOUND(request.send)


async def serve_session(worker: Worker, session_id: str, owner: Owner, request: Request) -> None:
    """Resume a session and let the app answer, on a live session of its own that is restored where it has none."""
    session = await worker.sessions.resume_session(session_id, owner)
    if session is None:
        await refuse(worker.app, NOT_FOUND, request, session_id=NOBODYS_SESSION)
        return
    clock = asyncio.get_running_loop()
    began = clock.time()
    async with worker.live.used(session.digest, is_stream=request.scope["method"] == "GET"):
        await _forward(worker, session_id, session, request)
    if clock.time() - began > worker.touch_seconds:
        await _touch(worker, session)


async def _forward(worker: Worker, session_id: str, session: Session, request: Request) -> None:
    body = RepeatableBody.of(request.receive)
    is_repeatable = is_short(request.scope)
    request = replace(request, scope={**readable(request.scope), SCOPE_KEY: session}, receive=body)
    for _ in range(_ATTEMPTS):
        try:
            live = await worker.live.get(session.digest, partial(worker.restore, session, request.scope))
            if not (is_repeatable or await worker.is_held(live, request.scope)):
                worker.live.forget(session.digest, live)
                continue
        except SessionGoneError:
            return await refuse(worker.app, NOT_FOUND, request, session_id=NOBODYS_SESSION)
        except RestoreFailedError as error:
            _warn("restore_failed", "session %(session)s not restored: %(error)s", session, error)
            return await refuse(worker.app, UNAVAILABLE, request)
        relay = Relay(request.send, session_id, body.forget)
        await worker.app(with_session_id(request.scope, live.app_session_id), body, relay)
        if relay.accepted:
            live.scope = request.scope
        if not relay.dropped:
            return None
        worker.live.forget(session.digest, live)
        if not body.start_again():
            break
    return await UNAVAILABLE.to(await request_id_of(request))(request.send)


async def _touch(worker: Worker, session: Session) -> None:
    """Record the end of a long request as activity; the client has its answer already."""
    try:
        await worker.sessions.touch_digests([session.digest])
    except McpSessionsError as error:
        _warn("touch_failed", "session %(session)s not touched: %(error)s", session, error)


def _warn(operation: str, message: str, session: Session, error: Exception) -> None:
    log(logging.WARNING, operation, message, session=session.short_digest, error=str(error))
