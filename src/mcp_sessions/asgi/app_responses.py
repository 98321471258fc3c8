"""What the client gets to see of the app's responses: its own session id, and never that the app dropped a session.

Two relays stand between the app's ``send`` and the client's. ``Relay`` passes a response on in the name of the client's
session and stops at a 404, the app's word for a session that it no longer holds. ``Refusal`` is for requests that the
layer refuses or acts on by itself: the app is asked first, about a session that it cannot know or about none, because
its own refusal (a 401 with the way to authenticate, a 403 for a forbidden origin) must reach the client.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from mcp_sessions.asgi.app_requests import body_then_silence, with_session_id
from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.body import request_id_of
from mcp_sessions.asgi.headers import SESSION_ID, first_value, headers_of, replaced
from mcp_sessions.asgi.responses import Response
from mcp_sessions.asgi.serving_context import ServingContext
from mcp_sessions.asgi.types import App, Headers, Message, Request, Send

_REPLACED_STATUSES = {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}
"""What a request without a session id gets from an app anyway, the last where it has no room for another session."""
NOBODYS_SESSION = b"none"
"""A session id that no app has given: it is too short."""


class Relay:
    """A ``send`` that passes on the app's response unless it says that the session is unknown.

    Attributes:
        accepted: whether the app did not refuse the request.
        dropped: whether the app said that it does not hold the session any more.

    """

    def __init__(self, send: Send, session_id: str, began: Callable[[], None]) -> None:
        self.accepted = False
        self.dropped = False
        self._send = send
        self._session_id = session_id.encode()
        self._began = began

    async def __call__(self, message: Message) -> None:
        """Take the app's next message."""
        if message["type"] == "http.response.start":
            self.accepted = message["status"] < HTTPStatus.BAD_REQUEST
            self.dropped = message["status"] == HTTPStatus.NOT_FOUND
            if not self.dropped:
                self._began()
                message = {**message, "headers": self._exchanged(headers_of(message))}
        if not self.dropped:
            await self._send(message)

    def _exchanged(self, headers: Headers) -> Headers:
        return [(key, self._session_id if key.lower() == SESSION_ID else value) for key, value in headers]


class Refusal:
    """A ``send`` that puts the layer's response instead of the app's, unless the app refuses for reasons of its own.

    Args:
        send: the client's.
        respond: sends the layer's response.
        is_unavailable: whether that is a 503 itself: then the app's tells more exactly why.

    """

    def __init__(self, send: Send, respond: Callable[[Send], Awaitable[None]], *, is_unavailable: bool = False) -> None:
        self._send = send
        self._respond = respond
        self._replaced = _REPLACED_STATUSES - ({HTTPStatus.SERVICE_UNAVAILABLE} if is_unavailable else set())
        self._responded = False

    async def __call__(self, message: Message) -> None:
        """Take the app's next message."""
        if self._responded:
            return
        if message["type"] == "http.response.start":
            if message["status"] < HTTPStatus.BAD_REQUEST or message["status"] in self._replaced:
                self._responded = True
                await self._respond(self._send)
                return
            message = {**message, "headers": replaced(headers_of(message), SESSION_ID, None)}
        await self._send(message)


async def refuse(app: App, response: Response, request: Request, *, session_id: bytes | None = None) -> None:
    """Refuse a request with this response, or with the app's if it has reasons of its own.

    The app gets the request without its body, so that not even one that takes any session id acts on it. By default
    it gets none: both SDKs look at the origin and the host of such a request, at the cost of a session that they open
    and discard. ``NOBODYS_SESSION`` is for those who try ids: it costs nothing.
    """

    async def refusing(send: Send) -> None:
        await response.to(await request_id_of(request))(send)

    scope = with_session_id(request.scope, session_id)
    is_unavailable = response.status == HTTPStatus.SERVICE_UNAVAILABLE
    await app(scope, body_then_silence(b""), Refusal(request.send, refusing, is_unavailable=is_unavailable))


async def is_refused(app: App, request: Request) -> bool:
    """Let the app refuse a request for reasons of its own before the layer acts on it; tell whether it has answered.

    The app gets it without its body and without a session id: both SDKs check the origin only of a request that they
    find a session for, or that might open one. They keep nothing of it.
    """
    refused = True

    async def go_on(_send: Send) -> None:
        nonlocal refused
        refused = False

    scope = with_session_id(request.scope, None)
    await app(scope, body_then_silence(b""), Refusal(request.send, go_on))
    return refused


async def pass_without_ids(
    context: ServingContext, request: Request, *, unless_refused: Response | None = None
) -> None:
    """Pass a request on that is of no session: of a revision without them, OPTIONS, or nothing that MCP knows.

    An app may answer it under an id of its own. Nobody will ever use that one, so it is ended. With
    ``unless_refused``, only the app's refusal reaches the client, and else that response.
    """
    opened: bytes | None = None
    replaced_all = False

    async def send(message: Message) -> None:
        nonlocal opened, replaced_all
        if message["type"] == "http.response.start":
            headers = headers_of(message)
            opened = first_value(headers, SESSION_ID)
            message = {**message, "headers": replaced(headers, SESSION_ID, None)}
            if unless_refused is not None and message["status"] < HTTPStatus.BAD_REQUEST:
                replaced_all = True
                await unless_refused.to(await request_id_of(request))(request.send)
        if not replaced_all:
            await request.send(message)

    try:
        await context.app(with_session_id(request.scope, None), request.receive, send)
    finally:
        if opened is not None:
            await context.close(AppSession(opened, request.scope, context.new_requests()))
