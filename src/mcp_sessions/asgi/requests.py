"""A session goes on, or ends: requests that name one.

A session is resumed in the database, given its app session (restored where this worker has none), and the app answers
there. What other workers wait for of a client's message is left for them first. A DELETE ends the session for all.
"""

import asyncio
import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from mcp_sessions.asgi.app_messages import AppMessages
from mcp_sessions.asgi.app_requests import readable, with_session_id
from mcp_sessions.asgi.app_responses import NOBODYS_SESSION, Relay, is_refused, refuse
from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.body import RepeatableBody, declared_length, request_id_of
from mcp_sessions.asgi.client_messages import ClientMessage
from mcp_sessions.asgi.client_settings import settings_in
from mcp_sessions.asgi.headers import LAST_EVENT_ID, first_value
from mcp_sessions.asgi.responses import ACCEPTED, DELETE_DISABLED, ENDED, NOT_FOUND, UNAVAILABLE, UNKNOWN_ANSWER
from mcp_sessions.asgi.restore import RestoreFailedError, RestoreRefusedError
from mcp_sessions.asgi.server_requests import UnknownAnswerError
from mcp_sessions.asgi.serving_context import ServingContext, SessionGoneError
from mcp_sessions.asgi.settings_relay import SettingsRelay
from mcp_sessions.asgi.types import Request, Scope, Send
from mcp_sessions.current import serving
from mcp_sessions.digests import digest_of
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log
from mcp_sessions.records.sessions import Owner, Session

SCOPE_KEY = "mcp_sessions.session"
"""Where the app finds the durable ``Session`` in the ASGI scope: the same on every worker, and without its id."""

RESTORE_REFUSED = "restore_refused"
"""The end reason of a session whose handshake the app does not take any more, as after an upgrade of the app."""

_DROPPED = "twice, or while it read a long request; see what it logs of its own sessions"
_LATE_ANSWER = "a long request was cut off that turned out to be an answer"
_UNLOCKED = nullcontext()
_ATTEMPTS = 2  # the app drops a session that it has just opened only if something is wrong with it


async def end_session(context: ServingContext, session_id: str, owner: Owner, request: Request) -> None:
    """End a session on its client's DELETE, unless the app refuses it: in the database first, then here."""
    if not context.settings.client_delete:
        await refuse(context.app, DELETE_DISABLED, request)
    elif await is_refused(context.app, request):
        return
    elif await context.sessions.terminate_session(session_id, owner=owner, reason="terminated"):
        context.app_sessions.end(digest_of(session_id), NOT_FOUND)  # the app takes its time in the background
        await ENDED(request.send)
    else:
        await NOT_FOUND(request.send)


async def serve_session(context: ServingContext, session_id: str, owner: Owner, request: Request) -> None:
    """Resume a session and let the app answer, on an app session that is restored where there is none."""
    session = await _find(context, session_id, owner)
    if session is None:
        await refuse(context.app, NOT_FOUND, request, session_id=NOBODYS_SESSION)
        return
    context.sessions.instruments.session_of_request(session.short_digest)
    clock = asyncio.get_running_loop()
    began = clock.time()
    async with context.app_sessions.used(session.digest, is_stream=request.scope["method"] == "GET"):
        is_activity = await _serve(context, session_id, session, request)
    if is_activity and clock.time() - began > context.touch_seconds:
        await _touch(context, session)


async def _find(context: ServingContext, session_id: str, owner: Owner) -> Session | None:
    """Return the session, resumed if its app session is here; else only found: a failed restore is no activity."""
    if digest_of(session_id) not in context.app_sessions:
        session = await context.sessions.get_session_metadata(session_id)
        if session is not None and session.owner == owner:
            return session
    return await context.sessions.resume_session(session_id, owner)


async def _serve(context: ServingContext, session_id: str, session: Session, request: Request) -> bool:
    """Answer, whatever the app says; tell whether the session was of use."""
    try:
        await _forward(context, session_id, session, request)
    except SessionGoneError:
        await refuse(context.app, NOT_FOUND, request, session_id=NOBODYS_SESSION)
    except RestoreRefusedError as error:
        _warn("restore_refused", "session %(session)s ended, it cannot be restored: %(error)s", session, error)
        await context.sessions.terminate_digest(session.digest, reason=RESTORE_REFUSED)
        await NOT_FOUND.to(await request_id_of(request))(request.send)
    except RestoreFailedError as error:
        _warn("restore_failed", "session %(session)s not restored: %(error)s", session, error)
        await refuse(context.app, UNAVAILABLE, request)
    except UnknownAnswerError as error:
        _warn("answer_refused", "session %(session)s: %(error)s", session, error)
        await refuse(context.app, UNKNOWN_ANSWER, request, session_id=NOBODYS_SESSION)
        return True
    else:
        return True
    return False


async def _forward(context: ServingContext, session_id: str, session: Session, request: Request) -> None:
    body, bounds = RepeatableBody.of(request.receive), context.settings
    if (declared_length(request.scope) or 0) > bounds.max_held_message and await is_refused(context.app, request):
        return
    with context.room.share() as take:
        client_message = await ClientMessage.read(
            request.scope, body, limit=bounds.max_held_message, patience=bounds.body_timeout, take=take
        )
        request = replace(request, receive=body)
        if not await _is_passed_on(context, session_id, session, client_message, request):
            await _serve_on_app_session(context, session_id, session, client_message, request)


async def _is_passed_on(
    context: ServingContext, session_id: str, session: Session, client_message: ClientMessage, request: Request
) -> bool:
    """Leave for other workers what they wait for; True where nothing is left for this one to do."""
    split = context.peer_messages.split(client_message.content)
    if not split.concerns_others:
        return False
    if await is_refused(context.app, request):
        return True
    if await context.sessions.resume_session(session_id, session.owner) is None:
        raise SessionGoneError
    await context.peer_messages.pass_on(session.digest, split)
    if split.rest is None or (split.is_shared and session.digest not in context.app_sessions):
        await ACCEPTED(request.send)
        return True
    client_message.content = split.rest
    return False


async def _serve_on_app_session(
    context: ServingContext, session_id: str, session: Session, client_message: ClientMessage, request: Request
) -> None:
    request = replace(request, scope={**readable(request.scope), SCOPE_KEY: session})
    for _ in range(_ATTEMPTS):
        session, app_session = await _app_session(context, session_id, session, request.scope)
        await context.keep_to_settings(session, app_session, request.scope)
        if not (client_message.is_short or await context.is_held(app_session, request.scope)):
            context.app_sessions.forget(session.digest, app_session)
            continue
        if await _is_answered(context, session_id, app_session, client_message, request):
            return
        context.app_sessions.forget(session.digest, app_session)
        if not client_message.is_short:
            break
    _warn("dropped", "mcp-sessions answered 503: the app dropped session %(session)s: %(error)s", session, _DROPPED)
    await UNAVAILABLE.to(await request_id_of(request))(request.send)


async def _app_session(
    context: ServingContext, session_id: str, session: Session, scope: Scope
) -> tuple[Session, AppSession]:
    """Return the app session, restored where there is none, and the session as it stands then."""
    is_restored = session.digest not in context.app_sessions
    app_session = await context.app_sessions.get(session.digest, partial(context.restore, session, scope))
    if not is_restored:
        return session, app_session
    if (resumed := await context.sessions.resume_session(session_id, session.owner)) is None:
        raise SessionGoneError
    return resumed, app_session


async def _is_answered(
    context: ServingContext, session_id: str, app_session: AppSession, client_message: ClientMessage, request: Request
) -> bool:
    """Let the app answer, on a GET with what other workers' apps send; False where it has dropped the app session."""
    if request.scope["method"] != "GET" or first_value(request.scope["headers"], LAST_EVENT_ID) is not None:
        return await _is_served(context, session_id, app_session, client_message, request)
    digest = request.scope[SCOPE_KEY].digest
    async with context.session_settings.listening.stream(digest, app_session, request.send) as send:
        return await _is_served(context, session_id, app_session, client_message, replace(request, send=send))


async def _is_served(
    context: ServingContext, session_id: str, app_session: AppSession, client_message: ClientMessage, request: Request
) -> bool:
    """Let the app answer on an app session; False where it does not hold that any more."""
    seen = client_message.for_app(request.scope, app_session.requests)
    if seen is None:
        await refuse(context.app, ACCEPTED, request, session_id=NOBODYS_SESSION)
        return True
    scope, receive = seen
    request_id = partial(request_id_of, request)
    with (
        app_session.used(),
        serving(request.scope[SCOPE_KEY], app_session.app_session_id),
        context.peer_messages.waited_for(app_session.requests) as to_client,
    ):
        messages = AppMessages(request.send, to_client, request_id, limit=context.settings.max_held_message)
        recording = _recording(context, request.scope[SCOPE_KEY], app_session, client_message, messages)
        relay = Relay(recording or messages, session_id, client_message.forget)
        async with _UNLOCKED if recording is None else app_session.setting:
            await context.app(with_session_id(scope, app_session.app_session_id), receive, relay)
    if client_message.is_cut_off:
        _warn("answer_refused", "session %(session)s: %(error)s", request.scope[SCOPE_KEY], _LATE_ANSWER)
    if recording is not None and recording.error is not None:
        context.app_sessions.forget(request.scope[SCOPE_KEY].digest, app_session)  # it holds what nobody else knows of
        raise recording.error
    if relay.accepted:
        app_session.scope = request.scope
        client_message.settle(app_session.requests)
    return not relay.dropped


def _recording(
    context: ServingContext, session: Session, app_session: AppSession, client_message: ClientMessage, send: Send
) -> SettingsRelay | None:
    """Return what records what the client sets before it hears that the app has accepted it; None where it is nothing.

    Whoever uses it holds the lock of the app session's settings.
    """
    if not (settings := settings_in(client_message.content)):
        return None
    record = partial(context.session_settings.record, session.digest, app_session)
    return SettingsRelay(send, settings, record, limit=context.settings.max_held_message)


async def _touch(context: ServingContext, session: Session) -> None:
    """Record the end of a long request as activity; the client has its response already."""
    try:
        await context.sessions.touch_digests([session.digest])
    except McpSessionsError as error:
        _warn("touch_failed", "session %(session)s not touched: %(error)s", session, error)


def _warn(operation: str, message: str, session: Session, error: Exception | str) -> None:
    log(logging.WARNING, operation, message, session=session.short_digest, error=str(error))
