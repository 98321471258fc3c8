"""Request bodies: read whole where an ``initialize`` is recorded, otherwise passed on as they come.

A request may have to be given to the app a second time, when the app has dropped its own session meanwhile: both SDKs
read a body to its end before they say so. Nothing is read ahead or copied for that. What the server has handed over
of a short body stays referenced until the app's response begins; a longer one, or one whose length nobody tells, is
never held, and the app is asked before whether it still has its session.
"""

from collections import deque

from mcp_sessions.asgi.headers import CONTENT_LENGTH, first_value
from mcp_sessions.asgi.types import Message, Receive, Scope

SHORT = 64 * 1024
"""The most bytes of a short body: what a server has in memory anyway before it reads on."""


class BodyTooLargeError(Exception):
    """The body exceeds its bound."""


class ClientGoneError(Exception):
    """The client disconnected before its request was complete."""


async def read_whole(receive: Receive, limit: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLargeError: it has more than ``limit`` bytes.
        ClientGoneError: it never ends.

    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def is_short(scope: Scope) -> bool:
    """Tell whether the body of a request is short for certain."""
    if scope["method"] != "POST":
        return True
    length = first_value(scope["headers"], CONTENT_LENGTH)
    return length is not None and length.isdigit() and int(length) <= SHORT


def whole(body: bytes, rest: Receive) -> Receive:
    """Return a ``receive`` that hands over a body that was read already, and then what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else await rest()

    return receive


class RepeatableBody:
    """A ``receive`` that can start again from the beginning as long as it has remembered everything."""

    def __init__(self, receive: Receive, limit: int = SHORT) -> None:
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
            if self._size > self._limit:
                self.forget()
            else:
                self._seen.append(message)
        return message

    def forget(self) -> None:
        """Let go of what was remembered."""
        self._seen = None

    def start_again(self) -> bool:
        """Go back to the beginning; False where too much has passed by to be remembered."""
        if self._seen is None:
            return False
        self._again = deque(self._seen)
        return True
