"""A session goes on, or ends: requests that name one."""

import asyncio
import logging
from dataclasses import replace
from functools import partial

from mcp_sessions.asgi.app_answers import NOBODYS_SESSION, Relay, is_refused, refuse
from mcp_sessions.asgi.app_messages import Outgoing
from mcp_sessions.asgi.app_requests import readable, with_session_id
from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.body import RepeatableBody, request_id_of
from mcp_sessions.asgi.client_messages import Incoming
from mcp_sessions.asgi.responses import ACCEPTED, DELETE_DISABLED, ENDED, NOT_FOUND, UNAVAILABLE, UNKNOWN_ANSWER
from mcp_sessions.asgi.restore import RestoreFailedError, RestoreRefusedError
from mcp_sessions.asgi.server_requests import UnknownAnswerError
from mcp_sessions.asgi.serving_context import SessionGoneError, Worker
from mcp_sessions.asgi.types import Request, Scope
from mcp_sessions.digests import digest_of
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log
from mcp_sessions.records.sessions import Owner, Session

SCOPE_KEY = "mcp_sessions.session"
"""Where the app finds the durable ``Session`` in the ASGI scope: the same on every worker, and without its id."""

RESTORE_REFUSED = "restore_refused"
"""The end reason of a session whose handshake the app does not take any more, as after an upgrade of the app."""

_DROPPED = "twice, or while it read a long request; see what it logs of its own sessions"
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
    session = await _find(worker, session_id, owner)
    if session is None:
        await refuse(worker.app, NOT_FOUND, request, session_id=NOBODYS_SESSION)
        return
    clock = asyncio.get_running_loop()
    began = clock.time()
    async with worker.live.used(session.digest, is_stream=request.scope["method"] == "GET"):
        is_activity = await _serve(worker, session_id, session, request)
    if is_activity and clock.time() - began > worker.touch_seconds:
        await _touch(worker, session)


async def _find(worker: Worker, session_id: str, owner: Owner) -> Session | None:
    """Return the session, resumed if it is live here; if not, that waits until it is: no failed restore is activity."""
    if digest_of(session_id) not in worker.live:
        session = await worker.sessions.get_session_metadata(session_id)
        if session is not None and session.owner == owner:
            return session
    return await worker.sessions.resume_session(session_id, owner)


async def _serve(worker: Worker, session_id: str, session: Session, request: Request) -> bool:
    """Answer, whatever the app says; tell whether the session was of use."""
    try:
        await _forward(worker, session_id, session, request)
    except SessionGoneError:
        await refuse(worker.app, NOT_FOUND, request, session_id=NOBODYS_SESSION)
    except RestoreRefusedError as error:
        _warn("restore_refused", "session %(session)s ended, it cannot be restored: %(error)s", session, error)
        await worker.sessions.terminate_digest(session.digest, reason=RESTORE_REFUSED)
        await NOT_FOUND.to(await request_id_of(request))(request.send)
    except RestoreFailedError as error:
        _warn("restore_failed", "session %(session)s not restored: %(error)s", session, error)
        await refuse(worker.app, UNAVAILABLE, request)
    except UnknownAnswerError as error:
        _warn("answer_refused", "session %(session)s: %(error)s", session, error)
        await refuse(worker.app, UNKNOWN_ANSWER, request, session_id=NOBODYS_SESSION)
        return True
    else:
        return True
    return False


async def _forward(worker: Worker, session_id: str, session: Session, request: Request) -> None:
    body, bounds = RepeatableBody.of(request.receive), worker.settings
    with worker.room.share() as take:
        incoming = await Incoming.read(body, limit=bounds.max_held_message, patience=bounds.body_timeout, take=take)
        request = replace(request, receive=body)
        if not await _is_passed_on(worker, session_id, session, incoming, request):
            await _answer(worker, session_id, session, incoming, request)


async def _is_passed_on(
    worker: Worker, session_id: str, session: Session, incoming: Incoming, request: Request
) -> bool:
    """Leave for other workers what they wait for; True where nothing is left for this one to do."""
    split = worker.peers.split(incoming.message)
    if not split.concerns_others:
        return False
    if await is_refused(worker.app, request):
        return True
    if await worker.sessions.resume_session(session_id, session.owner) is None:
        raise SessionGoneError
    await worker.peers.pass_on(session.digest, split)
    if split.rest is None or (split.is_shared and session.digest not in worker.live):
        await ACCEPTED(request.send)
        return True
    incoming.message = split.rest
    return False


async def _answer(worker: Worker, session_id: str, session: Session, incoming: Incoming, request: Request) -> None:
    request = replace(request, scope={**readable(request.scope), SCOPE_KEY: session})
    for _ in range(_ATTEMPTS):
        live = await _live(worker, session_id, session, request.scope)
        if not (incoming.is_short or await worker.is_held(live, request.scope)):
            worker.live.forget(session.digest, live)
            continue
        if await _is_answered(worker, session_id, live, incoming, request):
            return
        worker.live.forget(session.digest, live)
        if not incoming.is_short:
            break
    _warn("dropped", "mcp-sessions answered 503: the app dropped session %(session)s: %(error)s", session, _DROPPED)
    await UNAVAILABLE.to(await request_id_of(request))(request.send)


async def _live(worker: Worker, session_id: str, session: Session, scope: Scope) -> AppSession:
    is_restored = session.digest not in worker.live
    live = await worker.live.get(session.digest, partial(worker.restore, session, scope))
    if is_restored and await worker.sessions.resume_session(session_id, session.owner) is None:
        raise SessionGoneError
    return live


async def _is_answered(worker: Worker, session_id: str, live: AppSession, incoming: Incoming, request: Request) -> bool:
    """Let the app answer on its own session; False where it does not hold that any more."""
    seen = incoming.for_app(request.scope, live.requests)
    if seen is None:
        await refuse(worker.app, ACCEPTED, request, session_id=NOBODYS_SESSION)
        return True
    scope, receive = seen
    with live.used(), worker.peers.waited_for(live.requests) as to_client:
        send = Outgoing(request.send, to_client, limit=worker.settings.max_held_message)
        relay = Relay(send, session_id, incoming.forget)
        await worker.app(with_session_id(scope, live.app_session_id), receive, relay)
    if relay.accepted:
        live.scope = request.scope
        incoming.settle(live.requests)
    return not relay.dropped


async def _touch(worker: Worker, session: Session) -> None:
    """Record the end of a long request as activity; the client has its answer already."""
    try:
        await worker.sessions.touch_digests([session.digest])
    except McpSessionsError as error:
        _warn("touch_failed", "session %(session)s not touched: %(error)s", session, error)


def _warn(operation: str, message: str, session: Session, error: Exception | str) -> None:
    log(logging.WARNING, operation, message, session=session.short_digest, error=str(error))
