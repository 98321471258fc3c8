"""A session begins: the response to ``initialize`` is held back until it is known to be one.

Whether ``initialize`` succeeded stands in the body, and the session id in a header before it. So the response is held
until the message that decides has come by; then the session is stored, and only then the client learns its id. A
refused or failed ``initialize`` passes on as the app gave it, without an id.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Any

from mcp_sessions.asgi.app_messages import AppMessages
from mcp_sessions.asgi.app_requests import readable, with_session_id
from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.body import request_id_of
from mcp_sessions.asgi.headers import SESSION_ID, first_value, headers_of, replaced
from mcp_sessions.asgi.jsonrpc import Initialize, ResponseFinder
from mcp_sessions.asgi.owner import owner_of
from mcp_sessions.asgi.serving_context import ServingContext
from mcp_sessions.asgi.types import Message, Request, Send
from mcp_sessions.digests import digest_of, short_digest
from mcp_sessions.errors import InvalidInputError, InvalidOwnerError
from mcp_sessions.records.sessions import Handshake, Owner

Establish = Callable[[bytes, str], Awaitable[str]]
"""Stores the session that the app opened under an id of its own, at a protocol version; returns the client's id."""


class MisplacedError(Exception):
    """The layer does not stand where it could do its work; the message tells the operator what to change."""


async def open_session(context: ServingContext, initialize: Initialize, owner: Owner, request: Request) -> None:
    """Let the app answer an ``initialize`` request, and store the session that it opens.

    Raises:
        MisplacedError: the app keeps no sessions, authenticates where the layer cannot see it, or says too much.
        DatabaseError: the session could not be stored; like every other error, with nothing sent to the client.

    """
    within = readable(with_session_id(request.scope, None))
    requests = context.new_requests()
    settings = context.settings

    async def establish(app_session_id: bytes, protocol_version: str) -> str:
        try:
            is_owner = await owner_of(within, context.owner_of) == owner
        except InvalidOwnerError:
            is_owner = False
        if not is_owner:
            raise MisplacedError("the app authenticates behind DurableSessions: wrap the app that authenticates itself")
        try:
            handshake = Handshake(protocol_version=protocol_version, initialize=initialize.text)
        except InvalidInputError as error:  # within its bound, the client's part is always text that can be stored
            raise MisplacedError(f"the app's answer to initialize cannot be recorded: {error}") from None
        session_id = await context.sessions.create_session(**asdict(owner), handshake=handshake)
        context.sessions.instruments.session_of_request(short_digest(digest_of(session_id)))
        context.app_sessions.add(digest_of(session_id), AppSession(app_session_id, request.scope, requests))
        return session_id

    request_id = partial(request_id_of, request)
    send = AppMessages(request.send, requests.to_client, request_id, limit=settings.max_held_message)
    relay = InitializeRelay(send, initialize.request_id, establish, limit=settings.max_remembered_body)
    try:
        await context.app(within, request.receive, relay)
    finally:
        if relay.app_session_id is not None and not relay.established:
            await context.close(AppSession(relay.app_session_id, request.scope, requests))
    if relay.error is not None:
        raise relay.error


class InitializeRelay:
    """A ``send`` for the app's response to ``initialize``, which holds it back until the session is stored.

    What goes wrong is kept in ``error`` with nothing sent to the client, and not raised: an app handles in its own way
    what is raised inside its ``send``.
    """

    def __init__(self, send: Send, request_id: str | int, establish: Establish, *, limit: int) -> None:
        self.app_session_id: bytes | None = None
        self.established = False
        self.error: Exception | None = None
        self._send = send
        self._request_id = request_id
        self._establish = establish
        self._limit = limit
        self._finder: ResponseFinder | None = None
        self._held: list[Message] = []
        self._size = 0

    async def __call__(self, message: Message) -> None:
        """Take the app's next message."""
        if self.error is not None:
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._finder is not None and message["type"] == "http.response.body":
            await self._hold(message, self._finder)
        else:
            await self._send(message)

    async def _begin(self, start: Message) -> None:
        self.app_session_id = first_value(headers_of(start), SESSION_ID)
        if start["status"] != HTTPStatus.OK:
            await self._send(_naming(start, None))
        elif self.app_session_id is None:
            self.error = MisplacedError("the app keeps no sessions (stateless mode): serve it without DurableSessions")
        elif first_value(headers_of(start), b"content-encoding") not in {None, b"identity"}:
            self.error = MisplacedError(
                "the app compresses its answer to initialize unasked: compress in front of DurableSessions instead"
            )
        else:
            self._held = [start]
            self._finder = ResponseFinder(self._request_id, first_value(headers_of(start), b"content-type") or b"")

    async def _hold(self, message: Message, finder: ResponseFinder) -> None:
        piece = message.get("body", b"")
        last = not message.get("more_body", False)
        self._held.append(message)
        self._size += len(piece)
        response = finder.feed(piece, last=last)
        if response is not None and "result" in response:
            await self._succeed(response["result"])
        elif response is not None or last:
            await self._release(None)
        elif self._size > self._limit:
            self.error = MisplacedError(
                f"the app's answer to initialize is longer than {self._limit} bytes: "
                "raise max_remembered_body, or have the app say less"
            )

    async def _succeed(self, result: Any) -> None:
        version = result.get("protocolVersion") if isinstance(result, dict) else None
        if self.app_session_id is None or not isinstance(version, str):
            await self._release(None)
            return
        try:
            session_id = await self._establish(self.app_session_id, version)
        except Exception as error:  # noqa: BLE001  # re-raised by the caller, outside the app
            self.error = error
        else:
            self.established = True
            await self._release(session_id.encode())

    async def _release(self, session_id: bytes | None) -> None:
        self._finder = None
        start, *pieces = self._held
        await self._send(_naming(start, session_id))
        for piece in pieces:
            await self._send(piece)


def _naming(start: Message, session_id: bytes | None) -> Message:
    return {**start, "headers": replaced(headers_of(start), SESSION_ID, session_id)}
