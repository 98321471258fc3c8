"""The app's responses on their way to the client, with each JSON-RPC message in them as the client may see it.

Messages are found wherever they are: in JSON, alone or in a batch, or in the events of a stream, in whatever pieces
they come. What mentions no method cannot ask the client anything and passes as it is, at the cost of one look at its
bytes. An event or a document that is not complete is held until it shows that it is a response; one that does not
within a bound is not let out at all, because there may be a request in it under an id that the app has given.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mcp_sessions.asgi.event_streams import END_OF_EVENT, EventSplitter, data_in, with_data
from mcp_sessions.asgi.headers import CONTENT_ENCODING, CONTENT_LENGTH, first_value, replaced
from mcp_sessions.asgi.jsonrpc import members_so_far
from mcp_sessions.asgi.responses import MISCONFIGURED
from mcp_sessions.asgi.types import Message, Send
from mcp_sessions.logs import log

RequestId = Callable[[], Awaitable[str | int | None]]
"""Finds the id of the request that is answered."""
Change = Callable[[Any], Any]
"""Returns a message or a batch as the client may see it: the same object where nothing changes."""

_PERHAPS_ASKS = re.compile(rb'"method"|\\u00')  # a letter of it may be escaped
_ENOUGH_TO_DECIDE = 64 * 1024
"""How many bytes of a message are enough to tell whether it is a response."""


class UnreadableError(Exception):
    """What the app sends cannot be looked at; the message tells the operator why."""


class AppMessages:
    """A ``send`` for the app's response to a request on a session, which changes the messages in it."""

    def __init__(self, send: Send, change: Change, request_id: RequestId, *, limit: int) -> None:
        self._send = send
        self._change = change
        self._request_id = request_id
        self._limit = limit
        self._start: Message | None = None
        self._content: _Content | None = None
        self._is_over = False

    async def __call__(self, message: Message) -> None:
        """Take the app's next message."""
        if self._is_over:
            return
        try:
            if message["type"] == "http.response.start":
                await self._begin(message)
            elif self._content is not None and message["type"] == "http.response.body":
                await self._go_on(message, self._content)
            else:
                await self._send(message)
        except UnreadableError as error:
            await self._break_off(error)

    async def _begin(self, start: Message) -> None:
        headers = list(start.get("headers", ()))
        self._start = start
        if (first_value(headers, CONTENT_ENCODING) or b"identity").lower() != b"identity":
            raise UnreadableError("the app compresses its answers: put its compression in front of DurableSessions")
        if (first_value(headers, b"content-type") or b"").lower().startswith(b"text/event-stream"):
            self._content = _Events(self._change, self._limit)
            self._start = None
            await self._send({**start, "headers": replaced(headers, CONTENT_LENGTH, None)})
        else:
            self._content = _Document(self._change, self._limit)

    async def _go_on(self, message: Message, content: "_Content") -> None:
        piece, more = message.get("body", b""), message.get("more_body", False)
        passed = content.feed(piece, last=not more)
        if passed is piece:
            await self._send_start()
            await self._send(message)
        elif passed or not more:
            await self._send_start(None if more else len(passed))
            await self._send({**message, "body": passed})

    async def _send_start(self, length: int | None = None) -> None:
        if (start := self._start) is None:
            return
        self._start = None
        if length is not None:
            headers = replaced(start.get("headers", ()), CONTENT_LENGTH, b"%d" % length)
            start = {**start, "headers": headers}
        await self._send(start)

    async def _break_off(self, error: UnreadableError) -> None:
        self._is_over = True
        done = "broke an answer off" if self._start is None else "answered 500"
        log(logging.ERROR, "answer_broken_off", "mcp-sessions %(done)s: %(error)s", done=done, error=str(error))
        if self._start is not None:
            await MISCONFIGURED.to(await self._request_id())(self._send)
        else:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class _Content(Protocol):
    """The body of a response."""

    def feed(self, piece: bytes, *, last: bool) -> bytes:
        """Take the next piece; return what may be passed on now, the piece itself where that is all."""


class _Document:
    """A body that is one message or batch, or no JSON at all."""

    def __init__(self, change: Change, limit: int) -> None:
        self._change = change
        self._limit = limit
        self._held = bytearray()
        self._passes = False
        self._is_decided = False

    def feed(self, piece: bytes, *, last: bool) -> bytes:
        if self._passes or (last and not self._held and not _PERHAPS_ASKS.search(piece)):
            return piece
        self._held += piece
        if last:
            return _changed(bytes(self._held), self._change)
        if not self._is_decided and len(self._held) >= _ENOUGH_TO_DECIDE:
            self._is_decided = True
            self._passes = _is_response(bytes(self._held[:_ENOUGH_TO_DECIDE])) or not self._held.lstrip().startswith(
                (b"{", b"[")
            )
        if self._passes:
            return bytes(self._held)
        _check(len(self._held), self._limit)
        return b""


class _Events:
    """A body that is an event stream."""

    def __init__(self, change: Change, limit: int) -> None:
        self._change = change
        self._limit = limit
        self._splitter = EventSplitter()
        self._passes = False  # the rest of an event that is a response
        self._is_decided = False

    def feed(self, piece: bytes, *, last: bool) -> bytes:
        is_whole = not self._splitter.rest and not self._passes and piece.endswith(END_OF_EVENT)
        if (is_whole or not piece) and not _PERHAPS_ASKS.search(piece) and not (last and self._splitter.rest):
            return piece
        passed = [self._event(event) for event in self._splitter.feed(piece)]
        if last:
            passed.append(self._event(self._splitter.take(everything=True)))
        elif rest := self._splitter.rest:
            self._decide(rest)
            if self._passes:
                passed.append(self._splitter.take())
            else:
                _check(len(rest), self._limit)
        return b"".join(passed)

    def _event(self, event: bytes) -> bytes:
        passes, self._passes, self._is_decided = self._passes, False, False
        data = None if passes else data_in(event)
        if data is None or (changed := _changed(data, self._change)) is data:
            return event
        return with_data(event, changed)

    def _decide(self, rest: bytearray) -> None:
        if not self._is_decided and len(rest) >= _ENOUGH_TO_DECIDE:
            self._is_decided = True
            self._passes = _is_response(data_in(bytes(rest[:_ENOUGH_TO_DECIDE])) or b"")


def _changed(text: bytes, change: Change) -> bytes:
    if not _PERHAPS_ASKS.search(text):
        return text
    try:
        message = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return text  # no JSON, so it asks nothing
    except (ValueError, RecursionError):
        raise UnreadableError("the app sends numbers of thousands of digits, or nests too deeply") from None
    changed = change(message)
    return text if changed is message else json.dumps(changed).encode()


def _is_response(beginning: bytes) -> bool:
    members = members_so_far(beginning)
    return "method" not in members and ("result" in members or "error" in members)


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise UnreadableError(f"the app may ask for something in over {limit} bytes: raise max_held_message")
