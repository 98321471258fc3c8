"""The MCP session rules over HTTP, request by request.

Every request of the MCP endpoint is checked against the database before the app sees it, and reaches the app under the
app's own session id. The app keeps its sessions as it always did; the layer sees to it that this worker has one for
every durable session that a request names.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta

from mcp_sessions.asgi.app_responses import is_refused, pass_without_ids, refuse
from mcp_sessions.asgi.body import (
    BodyTooLargeError,
    BodyTooSlowError,
    ClientGoneError,
    NoRoomError,
    RepeatableBody,
    declared_length,
    is_short,
    read_whole,
)  # fmt: skip
from mcp_sessions.asgi.client_send import ClientSend
from mcp_sessions.asgi.headers import (
    MalformedSessionIdError,
    has_no_sessions,
    is_json,
    may_have_sessions,
    session_id_in,
)
from mcp_sessions.asgi.in_flight import CutError, RequestsInFlight, ShuttingDownError
from mcp_sessions.asgi.initialize import MisplacedError, open_session
from mcp_sessions.asgi.jsonrpc import BatchedInitializeError, initialize_in, is_message, request_id_in
from mcp_sessions.asgi.outside import visit_of
from mcp_sessions.asgi.owner import NoOwnerError, OwnerOf, owner_of
from mcp_sessions.asgi.placement import Layer
from mcp_sessions.asgi.requests import end_session, serve_session
from mcp_sessions.asgi.responses import (
    BATCHED_INITIALIZE,
    FORBIDDEN,
    MALFORMED_ID,
    MISCONFIGURED,
    MISSING_ID,
    TOO_LARGE,
    TOO_SLOW,
    UNAVAILABLE,
    Response,
)
from mcp_sessions.asgi.serving_context import ServingContext
from mcp_sessions.asgi.session_checks import check_regularly
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.stop_signals import on_stop_signal
from mcp_sessions.asgi.types import App, Receive, Request, Scope, Send
from mcp_sessions.caller import called_by
from mcp_sessions.errors import DatabaseError, EncryptionError, InvalidOwnerError, ManagerClosedError, OverloadedError
from mcp_sessions.logs import log
from mcp_sessions.manager import SessionManager
from mcp_sessions.records.sessions import Owner

OpenSessions = Callable[[], AbstractAsyncContextManager[SessionManager]]

_SESSION_METHODS = {"POST", "GET", "DELETE"}
_CUT_OFF_GRACE = timedelta(seconds=1)  # for the responses to what a shutdown has cut off
_CUT = (
    "mcp-sessions answered 503 to %(count)s requests still in flight after the drain timeout: "
    "raise MCP_SESSIONS_HTTP_DRAIN_TIMEOUT where calls take longer"
)
_FAULTS = (DatabaseError, EncryptionError, OverloadedError, ManagerClosedError, ShuttingDownError, NoRoomError)


class SessionLayer(Layer):
    """The ASGI layer around an MCP endpoint: whatever reaches it is the endpoint's."""

    def __init__(self, app: App, open_sessions: OpenSessions, owner: OwnerOf, settings: HttpSettings) -> None:
        self._app = app
        self._open_sessions = open_sessions
        self._owner = owner
        self._settings = settings
        self._context: ServingContext | None = None
        self._in_flight = RequestsInFlight()
        self._is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._context is not None and (told := self._context.sessions.instruments).is_on:
            with told.request(scope, receive, send) as (told_receive, told_send):
                await self._serve(Request(scope, told_receive, told_send))
        else:
            await self._serve(Request(scope, receive, send))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the sessions open, as long as the app runs."""
        self._in_flight, self._is_stopping = RequestsInFlight(), False  # a stop before closed the one and set the other
        async with self._open_sessions() as sessions, sessions.open_mailbox() as mailbox:
            self._context = ServingContext(self._app, sessions, mailbox, self._owner, self._settings)
            checking = asyncio.create_task(check_regularly(self._context))
            listening = on_stop_signal(self._stop_streams) if self._settings.drain_on_signal else nullcontext()
            try:
                with listening:
                    yield
            finally:
                checking.cancel()
                await asyncio.gather(checking, return_exceptions=True)
                await self._context.peer_messages.aclose()
                await self._context.session_settings.aclose()
                await self._context.app_sessions.aclose()
                self._context = None

    async def drain(self) -> None:
        """Take no new work, end open streams, and wait for requests in flight; no session ends by it.

        What is still in flight after the drain timeout is answered 503.
        """
        self._in_flight.close()
        self._stop_streams()
        if left := await self._in_flight.wait_until_none(self._settings.drain_timeout):
            log(logging.WARNING, "drained", _CUT, count=left)
            if self._context is not None:
                self._context.app_sessions.cut_all(UNAVAILABLE)
            await self._in_flight.wait_until_none(_CUT_OFF_GRACE)

    def _stop_streams(self) -> None:
        """End open streams and open no more; answer what is in flight or still comes, and then close its connection.

        Servers close idle connections themselves, but uvicorn would serve one for as long as it is busy that it took
        in the moment before.
        """
        self._is_stopping = True
        if self._context is not None:
            self._context.app_sessions.cut_streams(UNAVAILABLE)

    async def _serve(self, request: Request) -> None:
        body = RepeatableBody.of(request.receive)
        send = ClientSend(request, body, lambda: self._is_stopping)
        request = Request(request.scope, body, send)
        try:
            await self._dispatch(request)
        except CutError as cut:
            await send.finish(cut.response, request)
        except ClientGoneError:
            return
        except _FAULTS as fault:
            log(logging.WARNING, "unavailable", "mcp-sessions answered 503: %(error)s", error=str(fault))
            await send.finish(UNAVAILABLE, request)
        except (MisplacedError, NoOwnerError) as error:
            log(logging.ERROR, "misplaced", "mcp-sessions answered 500: %(error)s", error=str(error))
            await send.finish(MISCONFIGURED, request)
        except BodyTooLargeError:
            await send.finish(TOO_LARGE, request)
        except BodyTooSlowError:
            await send.finish(TOO_SLOW, request, patience=timedelta(0))
        except asyncio.CancelledError:  # a server without patience: it would make a 500 of it
            if not send.started:
                log(logging.WARNING, "cancelled", "mcp-sessions answered 503: the server broke the request off")
                await send.finish(UNAVAILABLE, request, patience=timedelta(0))
            raise

    def serving_sessions(self) -> SessionManager:
        """Return the manager that requests are served with, now.

        Raises:
            ShuttingDownError: the worker was told to stop.
            MisplacedError: it was not started.

        """
        if self._is_stopping:
            raise ShuttingDownError
        self._in_flight.require_open()
        return self._started_context().sessions

    def _started_context(self) -> ServingContext:
        if self._context is None:
            raise MisplacedError(
                "DurableSessions was not started: the server must run its lifespan, "
                "and a host app that mounts it must pass lifespan=durable.lifespan"
            )
        return self._context

    async def _dispatch(self, request: Request) -> None:
        """Tell the owner, whatever the request says of itself, and then what the request is."""
        self._in_flight.require_open()
        context = self._started_context()
        _govern(request.scope)
        try:
            owner = await owner_of(request.scope, self._owner)
        except InvalidOwnerError as error:
            log(logging.WARNING, "forbidden", "mcp-sessions answered 403: %(error)s", error=str(error))
            return await refuse(context.app, FORBIDDEN, request)
        with called_by(owner, context.sessions):
            if has_no_sessions(request.scope) or request.scope["method"] not in _SESSION_METHODS:
                return await pass_without_ids(context, request)
            with self._in_flight.counted():
                return await self._serve_by_session_id(context, owner, request)

    async def _serve_by_session_id(self, context: ServingContext, owner: Owner, request: Request) -> None:
        try:
            session_id = session_id_in(request.scope)
        except MalformedSessionIdError:
            return await refuse(context.app, MALFORMED_ID, request)
        if session_id is None and not may_have_sessions(request.scope):
            return await pass_without_ids(context, request)  # the app says which revisions it knows
        if session_id is None:
            return await self._serve_without_session_id(context, owner, request)
        act = end_session if request.scope["method"] == "DELETE" else serve_session
        return await act(context, session_id, owner, request)

    async def _serve_without_session_id(self, context: ServingContext, owner: Owner, request: Request) -> None:
        if request.scope["method"] != "POST":
            return await refuse(context.app, MISSING_ID, request)
        limit = context.settings.max_remembered_body
        if (declared_length(request.scope) or 0) > limit:
            return await refuse(context.app, TOO_LARGE, request)
        if not is_short(request.scope) and await is_refused(context.app, request):
            return None
        with context.room.share() as take:
            patience = context.settings.body_timeout
            body = await read_whole(request.receive, limit=limit, patience=patience, take=take)
            return await self._initialize_or_refuse(context, owner, body, request)

    async def _initialize_or_refuse(self, context: ServingContext, owner: Owner, body: bytes, request: Request) -> None:
        receive = RepeatableBody.of(request.receive)
        receive.request_id = request_id_in(body)
        response: Response = MISSING_ID
        try:
            if initialize := initialize_in(body):
                receive.repeat(body)
                return await open_session(context, initialize, owner, request)
        except BatchedInitializeError:
            response = BATCHED_INITIALIZE
        if is_json(request.scope) and is_message(body):
            return await refuse(context.app, response, request)
        receive.repeat(body)  # the app says what is wrong with it
        return await pass_without_ids(context, request, unless_refused=response)


def _govern(scope: Scope) -> None:
    visit = visit_of(scope)
    if visit.governed:
        raise MisplacedError("one MCP endpoint is wrapped in DurableSessions twice: take one of them away")
    visit.governed = True
