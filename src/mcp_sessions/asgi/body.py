"""Request bodies: read whole where an ``initialize`` is recorded, otherwise passed on as they come.

What is read whole is bounded three times: each body in length and in the time that it may take to arrive, and all that
a worker holds together in length. The beginnings of bodies are left out of that sum, as a server has them in memory
anyway, so that nobody who sends long ones keeps the usual short ones from being read.

A request may have to be given to the app a second time, when the app has dropped its own session meanwhile: both SDKs
read a body to its end before they say so. Nothing is read ahead or copied for that. What the server has handed over
of a short body stays referenced until the app's response begins; a longer one, or one whose length nobody tells, is
never held, and the app is asked before whether it still has its session.
"""

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Self

from mcp_sessions.asgi.headers import CONTENT_LENGTH, first_value
from mcp_sessions.asgi.jsonrpc import members_so_far, request_id_in, request_id_of_message
from mcp_sessions.asgi.types import Message, Receive, Request, Scope

SHORT = 64 * 1024
"""The most bytes of a short body: what a server has in memory anyway before it reads on."""


PATIENCE = timedelta(seconds=1)
"""How long the rest of a body is waited for that matters for the id in it alone."""

_MOST_DIGITS = 18
"""Of a length that is still a number: Python refuses to read thousands of them."""

Take = Callable[[int], None]
"""Takes so many bytes of a worker's room."""


class BodyTooLargeError(Exception):
    """The body exceeds its bound."""


class BodyTooSlowError(Exception):
    """The body did not arrive in time."""


class NoRoomError(Exception):
    """The worker holds as many bytes of bodies as it may."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the bodies of requests that are read whole fill the {size} bytes of max_held_bodies")


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


class Room:
    """How many bytes of bodies a worker may hold, and holds."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Take]:
        """Yield what takes bytes of it for one body; they are given back in the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self._held + count > self._size:
                raise NoRoomError(self._size)
            self._held += count
            taken += count

        try:
            yield take
        finally:
            self._held -= taken


def _take_nothing(_count: int) -> None:
    """Take no room: a short body needs none."""


async def read_whole(receive: Receive, *, limit: int, patience: timedelta, take: Take = _take_nothing) -> bytes:
    """Return the whole body; what it has beyond ``SHORT`` is taken from the worker's room.

    Raises:
        BodyTooLargeError: it has more than ``limit`` bytes.
        BodyTooSlowError: it took longer than ``patience`` to arrive.
        ClientGoneError: it never ends.
        NoRoomError: the worker has no room for it.

    """
    try:
        async with asyncio.timeout(patience.total_seconds()):
            return await _read(receive, limit, take)
    except TimeoutError:
        raise BodyTooSlowError from None


async def _read(receive: Receive, limit: int, take: Take) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        before = len(body)
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLargeError
        take(max(len(body) - SHORT, 0) - max(before - SHORT, 0))
        if not message.get("more_body", False):
            return bytes(body)


def text_of(message: Any) -> str:
    """Return a message that was read as it is passed on.

    Raises:
        BodyTooLargeError: it is nested too deeply.

    """
    try:
        return json.dumps(message)
    except RecursionError:
        raise BodyTooLargeError from None


def declared_length(scope: Scope) -> int | None:
    """Return how long a request says that its body is, or None where it does not say so."""
    length = first_value(scope["headers"], CONTENT_LENGTH)
    if length is None or not length.isdigit():
        return None
    return int(length) if len(length) <= _MOST_DIGITS else sys.maxsize


def is_short(scope: Scope) -> bool:
    """Tell whether the body of a request is short for certain."""
    if scope["method"] != "POST":
        return True
    length = declared_length(scope)
    return length is not None and length <= SHORT


async def request_id_of(request: Request, patience: timedelta = PATIENCE) -> str | int | None:
    """Return the JSON-RPC id of a request that the layer answers itself, or None.

    It is the one that was found as the body was read, or is looked for in what is at hand of a short body, or comes
    within ``patience``.
    """
    body = request.receive
    if not isinstance(body, RepeatableBody) or body.request_id is not None:
        return getattr(body, "request_id", None)
    is_long = (declared_length(request.scope) or 0) > SHORT
    if request.scope["method"] != "POST" or is_long or not body.start_again():
        return None
    try:
        return request_id_in(await read_whole(body, limit=SHORT, patience=patience))
    except (BodyTooLargeError, BodyTooSlowError, ClientGoneError):
        return None


def whole(body: bytes, rest: Receive) -> Receive:
    """Return a ``receive`` that hands over a body that was read already, and then what comes after it."""
    return begun([body], rest, is_complete=True)


def begun(pieces: Iterable[bytes], rest: Receive, *, is_complete: bool) -> Receive:
    """Return a ``receive`` that hands over what was read of a body already, and then what comes after it."""
    pending = deque(pieces)

    async def receive() -> Message:
        if not pending:
            return await rest()
        piece = pending.popleft()
        return {"type": "http.request", "body": piece, "more_body": bool(pending) or not is_complete}

    return receive


class RepeatableBody:
    """A ``receive`` that can start again from the beginning as long as it has remembered everything.

    Attributes:
        request_id: the JSON-RPC id of the request, where somebody has read as far.

    """

    @classmethod
    def of(cls, receive: Receive) -> Self:
        """Return a ``receive`` that can, be it this one already."""
        return receive if isinstance(receive, cls) else cls(receive)

    def __init__(self, receive: Receive, limit: int = SHORT) -> None:
        self.request_id: str | int | None = None
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._seen: list[Message] | None = []
        self._again: deque[Message] = deque()

    async def __call__(self) -> Message:
        """Receive the next message."""
        if self._again:
            return self._again.popleft()
        message = await self._receive()
        if self._seen is not None and message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._seen.append(message)
            if self._size >= self._limit:
                self._note_id()
            if self._size > self._limit:
                self.forget()
        return message

    def _note_id(self) -> None:
        beginning = b"".join(message.get("body", b"") for message in self._seen or ())
        self.request_id = request_id_of_message(members_so_far(beginning[: self._limit]))

    def forget(self) -> None:
        """Let go of what was remembered."""
        self._seen = None

    def repeat(self, body: bytes) -> None:
        """Hand a body over once more that was read whole."""
        self._again = deque([{"type": "http.request", "body": body, "more_body": False}])

    def start_again(self) -> bool:
        """Go back to the beginning; False where too much has passed by to be remembered."""
        if self._seen is None:
            return False
        self._again = deque(self._seen)
        return True
