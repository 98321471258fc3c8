"""Calls into the wrapped app: a client's request with the session id exchanged, and requests of the layer's own.

The app never sees a client's session id and a client never sees the app's. The layer's own requests (the replayed
handshake, the end of a session that is let go) run in-process under the scope of a client's request, so the app finds
the principal there that it verified itself.
"""

import asyncio
from dataclasses import dataclass

from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.headers import (
    ACCEPT_ENCODING,
    CONTENT_LENGTH,
    LAST_EVENT_ID,
    PROTOCOL_VERSION,
    SESSION_ID,
    first_value,
    headers_of,
    replaced,
)  # fmt: skip
from mcp_sessions.asgi.types import App, Headers, Message, Receive, Scope

_OF_ONE_REQUEST = {
    SESSION_ID, PROTOCOL_VERSION, b"accept", ACCEPT_ENCODING, CONTENT_LENGTH, b"content-type", b"content-encoding",
    b"transfer-encoding", b"expect", LAST_EVENT_ID, b"mcp-method", b"mcp-name",
}  # fmt: skip


class ReplyTooLargeError(Exception):
    """The app's reply to a request of the layer's own exceeds its bound."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The app's complete reply to a request of the layer's own."""

    status: int
    headers: Headers
    body: bytes

    @property
    def session_id(self) -> bytes | None:
        """The app's own session id in it."""
        return first_value(self.headers, SESSION_ID)


def with_session_id(scope: Scope, session_id: bytes | None) -> Scope:
    """Return a copy of a request's scope that names that session, or none."""
    return {**scope, "headers": replaced(scope["headers"], SESSION_ID, session_id)}


def readable(scope: Scope) -> Scope:
    """Return a copy of a request's scope whose response the layer can read: no app compresses it then."""
    return {**scope, "headers": replaced(scope["headers"], ACCEPT_ENCODING, b"identity")}


async def ask(
    app: App,
    method: str,
    scope: Scope,
    *,
    limit: int,
    session_id: bytes | None = None,
    protocol_version: str | None = None,
    body: bytes = b"",
) -> Reply:
    """Send the app a request of the layer's own on behalf of a client's request, and return its complete reply.

    What the client's request says of itself, its protocol version included, is not said of this one.

    Raises:
        ReplyTooLargeError: the reply has more than ``limit`` bytes.

    """
    headers = [(key, value) for key, value in scope["headers"] if key not in _OF_ONE_REQUEST]
    headers += [
        (b"accept", b"application/json, text/event-stream"),
        (ACCEPT_ENCODING, b"identity"),
        (b"content-type", b"application/json"),
        (CONTENT_LENGTH, b"%d" % len(body)),
    ]
    if session_id is not None:
        headers.append((SESSION_ID, session_id))
    if protocol_version is not None:
        headers.append((PROTOCOL_VERSION, protocol_version.encode()))
    collector = _Collector(limit)
    await app({**scope, "method": method, "headers": headers}, body_then_silence(body), collector)
    return collector.reply()


async def ask_on(app: App, app_session: AppSession, body: bytes, *, limit: int) -> Reply:
    """POST a message to an app session, as the client of the last request that the app accepted there.

    Raises:
        ReplyTooLargeError: the reply has more than ``limit`` bytes.

    """
    version = _version_of(app_session)
    return await ask(
        app,
        "POST",
        app_session.scope,
        limit=limit,
        session_id=app_session.app_session_id,
        protocol_version=None if version is None else version.decode("latin-1"),
        body=body,
    )


def listening_scope(app_session: AppSession) -> Scope:
    """Return the scope of a GET that listens to an app session, as the client of the last request there."""
    headers = [(key, value) for key, value in app_session.scope["headers"] if key not in _OF_ONE_REQUEST]
    headers += [
        (b"accept", b"text/event-stream"),
        (ACCEPT_ENCODING, b"identity"),
        (SESSION_ID, app_session.app_session_id),
    ]
    if (version := _version_of(app_session)) is not None:
        headers.append((PROTOCOL_VERSION, version))
    return {**app_session.scope, "method": "GET", "headers": headers}


def _version_of(app_session: AppSession) -> bytes | None:
    return first_value(app_session.scope["headers"], PROTOCOL_VERSION)


def body_then_silence(body: bytes) -> Receive:
    """Return the ``receive`` of a request of the layer's own, whose client never leaves."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not pending:
            await asyncio.Event().wait()  # nobody disconnects: the app ends the exchange by answering
        return pending.pop()

    return receive


class _Collector:
    """A ``send`` that collects a response."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")[: self._limit + 1 - len(self._body)]

    def reply(self) -> Reply:
        if len(self._body) > self._limit:  # not raised before: an error inside send would be the app's to handle
            raise ReplyTooLargeError
        if self._start is None:
            return Reply(500, [], b"")  # what a server makes of an app that does not answer
        return Reply(self._start["status"], headers_of(self._start), bytes(self._body))
