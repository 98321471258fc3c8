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
from dataclasses import replace
from datetime import timedelta

from mcp_sessions.asgi.app_answers import is_refused, pass_without_ids, refuse
from mcp_sessions.asgi.app_sessions import CutError
from mcp_sessions.asgi.body import (
    PATIENCE,
    BodyTooLargeError,
    BodyTooSlowError,
    ClientGoneError,
    NoRoomError,
    RepeatableBody,
    is_short,
    length_told,
    read_whole,
    request_id_of,
    whole,
)  # fmt: skip
from mcp_sessions.asgi.headers import (
    CONNECTION,
    MalformedSessionIdError,
    has_no_sessions,
    is_json,
    may_have_sessions,
    replaced,
    session_id_in,
)
from mcp_sessions.asgi.in_flight import Gate, GateClosedError
from mcp_sessions.asgi.initialize import MisplacedError, open_session
from mcp_sessions.asgi.jsonrpc import BatchedInitializeError, initialize_in, is_message
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
    Answer,
)
from mcp_sessions.asgi.serving_context import Worker
from mcp_sessions.asgi.session_checks import pulse
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.stop_signals import on_stop_signal
from mcp_sessions.asgi.types import App, Message, Receive, Request, Scope, Send
from mcp_sessions.errors import DatabaseError, InvalidOwnerError, ManagerClosedError, OverloadedError
from mcp_sessions.logs import log
from mcp_sessions.manager import SessionManager
from mcp_sessions.records.sessions import Owner

OpenSessions = Callable[[], AbstractAsyncContextManager[SessionManager]]

_SESSION_METHODS = {"POST", "GET", "DELETE"}
_LAST_WORDS = timedelta(seconds=1)  # for the answers to what a shutdown has cut off
_CUT = (
    "mcp-sessions answered 503 to %(count)s requests still in flight after the drain timeout: "
    "raise MCP_SESSIONS_HTTP_DRAIN_TIMEOUT where calls take longer"
)
_FAULTS = (DatabaseError, OverloadedError, ManagerClosedError, GateClosedError, NoRoomError)


class SessionLayer(Layer):
    """The ASGI layer around an MCP endpoint: whatever reaches it is the endpoint's."""

    def __init__(self, app: App, open_sessions: OpenSessions, owner: OwnerOf, settings: HttpSettings) -> None:
        self._app = app
        self._open_sessions = open_sessions
        self._owner = owner
        self._settings = settings
        self._worker: Worker | None = None
        self._gate = Gate()
        self._leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            await self._serve(Request(scope, receive, send))
        else:
            await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the sessions open, as long as the app runs."""
        self._gate, self._leaving = Gate(), False  # a stop before closed the one and set the other
        async with self._open_sessions() as sessions, sessions.open_mailbox() as mailbox:
            self._worker = Worker(self._app, sessions, mailbox, self._owner, self._settings)
            beating = asyncio.create_task(pulse(self._worker))
            listening = on_stop_signal(self._leave) if self._settings.drain_on_signal else nullcontext()
            try:
                with listening:
                    yield
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
                await self._worker.peers.aclose()
                await self._worker.live.aclose()
                self._worker = None

    async def drain(self) -> None:
        """Take no new work, end open streams, and wait for requests in flight; no session ends by it.

        What is still in flight after the drain timeout is answered 503.
        """
        self._gate.close()
        self._leave()
        if left := await self._gate.wait_until_empty(self._settings.drain_timeout):
            log(logging.WARNING, "drained", _CUT, count=left)
            if self._worker is not None:
                self._worker.live.cut_all(UNAVAILABLE)
            await self._gate.wait_until_empty(_LAST_WORDS)

    def _leave(self) -> None:
        """End open streams and open no more; answer what is in flight or still comes, and then close its connection.

        Servers close idle connections themselves, but uvicorn would serve one for as long as it is busy that it took
        in the moment before.
        """
        self._leaving = True
        if self._worker is not None:
            self._worker.live.cut_streams(UNAVAILABLE)

    async def _serve(self, request: Request) -> None:
        body = RepeatableBody.of(request.receive)
        send = _Outbound(request, body, lambda: self._leaving)
        request = Request(request.scope, body, send)
        try:
            await self._dispatch(request)
        except CutError as cut:
            await send.finish(cut.answer, request)
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

    def _started_worker(self) -> Worker:
        if self._worker is None:
            raise MisplacedError(
                "DurableSessions was not started: the server must run its lifespan, "
                "and a host app that mounts it must pass lifespan=durable.lifespan"
            )
        return self._worker

    async def _dispatch(self, request: Request) -> None:
        """Tell the owner, whatever the request says of itself, and then what the request is."""
        self._gate.require_open()
        worker = self._started_worker()
        _govern(request.scope)
        try:
            owner = await owner_of(request.scope, self._owner)
        except InvalidOwnerError as error:
            log(logging.WARNING, "forbidden", "mcp-sessions answered 403: %(error)s", error=str(error))
            return await refuse(worker.app, FORBIDDEN, request)
        if has_no_sessions(request.scope) or request.scope["method"] not in _SESSION_METHODS:
            return await pass_without_ids(worker, request)
        with self._gate.passed():
            return await self._act(worker, owner, request)

    async def _act(self, worker: Worker, owner: Owner, request: Request) -> None:
        try:
            session_id = session_id_in(request.scope)
        except MalformedSessionIdError:
            return await refuse(worker.app, MALFORMED_ID, request)
        if session_id is None and not may_have_sessions(request.scope):
            return await pass_without_ids(worker, request)  # the app says which revisions it knows
        if session_id is None:
            return await self._begin(worker, owner, request)
        act = end_session if request.scope["method"] == "DELETE" else serve_session
        return await act(worker, session_id, owner, request)

    async def _begin(self, worker: Worker, owner: Owner, request: Request) -> None:
        if request.scope["method"] != "POST":
            return await refuse(worker.app, MISSING_ID, request)
        limit = worker.settings.max_remembered_body
        if (length_told(request.scope) or 0) > limit:
            return await refuse(worker.app, TOO_LARGE, request)
        if not is_short(request.scope) and await is_refused(worker.app, request):
            return None
        with worker.room.share() as take:
            patience = worker.settings.body_timeout
            body = await read_whole(request.receive, limit=limit, patience=patience, take=take)
            return await self._open(worker, owner, body, request)

    async def _open(self, worker: Worker, owner: Owner, body: bytes, request: Request) -> None:
        read = replace(request, receive=whole(body, request.receive))
        answer: Answer = MISSING_ID
        try:
            if initialize := initialize_in(body):
                return await open_session(worker, initialize, owner, read)
        except BatchedInitializeError:
            answer = BATCHED_INITIALIZE
        if not (is_json(request.scope) and is_message(body)):
            return await pass_without_ids(worker, read, unless_refused=answer)  # the app says what is wrong with it
        return await refuse(worker.app, answer, request)


def _govern(scope: Scope) -> None:
    visit = visit_of(scope)
    if visit.governed:
        raise MisplacedError("one MCP endpoint is wrapped in DurableSessions twice: take one of them away")
    visit.governed = True


class _Outbound:
    """The client's ``send``, which knows how far the response has come, and closes the connection of a last one."""

    def __init__(self, request: Request, body: RepeatableBody, is_last: Callable[[], bool]) -> None:
        self._send = request.send
        self._body = body
        self._is_last = is_last
        version: str = request.scope.get("http_version", "1.1")
        self._closes = version.startswith("1.")  # later versions close no connection by a header
        self.started = False
        self._complete = False

    async def __call__(self, message: Message) -> None:
        if not self.started:
            self.started = True
            self._body.forget()
        self._complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        if message["type"] == "http.response.start" and self._closes and self._is_last():
            message = {**message, "headers": replaced(message.get("headers", ()), CONNECTION, b"close")}
        await self._send(message)

    async def finish(self, answer: Answer, request: Request, *, patience: timedelta = PATIENCE) -> None:
        """Give this answer to the request, or end the one that has begun."""
        if not self.started:
            await answer.to(await request_id_of(request, patience))(self)
        elif not self._complete:
            await self({"type": "http.response.body", "body": b"", "more_body": False})
