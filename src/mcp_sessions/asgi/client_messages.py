"""A client's request on its way to the app: read as far as it takes to know whether it answers the server.

An answer to a request of the server's goes to the app under the id that the app gave, or not at all. 64 KiB of a body
tell whether it is a request or a notification for certain; what is not is read to its end, within a bound. Any other
body that is longer passes as it comes and is never held, and is cut off where it turns out to be an answer after all:
no parser takes what is left. A short one stays referenced until the app begins its response, to be given to it a second
time where it has dropped its own session meanwhile: both SDKs read a body to its end before they say so.
"""

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

from mcp_sessions.asgi.body import (
    SHORT,
    BodyTooLargeError,
    BodyTooSlowError,
    ClientGoneError,
    RepeatableBody,
    Take,
    begun,
    declared_length,
    read_whole,
    text_of,
    whole,
)  # fmt: skip
from mcp_sessions.asgi.client_settings import METHODS_THAT_SET
from mcp_sessions.asgi.headers import CONTENT_LENGTH, replaced
from mcp_sessions.asgi.jsonrpc import members_so_far
from mcp_sessions.asgi.member_names import MemberNames
from mcp_sessions.asgi.server_requests import ServerRequests
from mcp_sessions.asgi.types import Message, Receive, Scope

_PERHAPS_READ = re.compile(  # a letter may be escaped; UTF-16 has zeros
    rb'"result"|"error"|notifications|setLevel|subscribe|\\u00|\x00'
)
_OF_ANSWERS = {"result", "error"}


class ClientMessage:
    """What a client sends on a session, as far as it was read.

    Attributes:
        is_short: whether it can be given to the app twice.
        is_cut_off: whether it was kept from the app where it turned out to be an answer.
        content: what of it the app may see; None where it is none of those that are looked at.

    """

    def __init__(self, rest: RepeatableBody, pieces: list[bytes], *, is_complete: bool) -> None:
        self.is_short = is_complete and sum(map(len, pieces)) <= SHORT
        self.is_cut_off = False
        self._rest = rest
        self._pieces = pieces
        self._is_complete = is_complete
        self.content = _parsed(b"".join(pieces)) if is_complete else None
        self._content_as_read = self.content

    @classmethod
    async def read(
        cls, scope: Scope, receive: RepeatableBody, *, limit: int, patience: timedelta, take: Take
    ) -> "ClientMessage":
        """Read the beginning of a POST, and within the bounds of ``read_whole`` all of what may answer the server.

        Raises:
            BodyTooLargeError, NoRoomError: what may answer the server is beyond a bound, or tells numbers beyond any.
            BodyTooSlowError: so much of it did not arrive in time.
            ClientGoneError: the client has left before.

        """
        if scope["method"] != "POST":
            return cls(receive, [b""], is_complete=True)
        try:
            async with asyncio.timeout(patience.total_seconds()):
                pieces, more = await _beginning(receive)
        except TimeoutError:
            raise BodyTooSlowError from None
        beginning = b"".join(pieces)
        if (more or len(beginning) > limit) and _is_read_whole(beginning[:SHORT]):
            if (declared_length(scope) or 0) > limit:
                raise BodyTooLargeError
            rest = begun(pieces, receive, is_complete=not more)
            pieces, more = [await read_whole(rest, limit=limit, patience=patience, take=take)], False
        return cls(receive, pieces, is_complete=not more)

    def for_app(self, scope: Scope, requests: ServerRequests) -> tuple[Scope, Receive] | None:
        """Return the request as the app may see it, from its beginning; None where nothing of it is left to be seen.

        Raises:
            UnknownAnswerError: it answers no request that waits here.

        """
        message = requests.to_app(self.content)
        if message is self._content_as_read:
            receive = begun(self._pieces, self._rest, is_complete=self._is_complete)
            if not self.is_short:
                self.forget()  # it passes once
            return scope, receive if self._is_complete else self._cut_off_as_answer(receive)
        if message is None:
            return None
        body = text_of(message).encode()
        headers = replaced(scope["headers"], CONTENT_LENGTH, b"%d" % len(body))
        return {**scope, "headers": headers}, whole(body, self._rest)

    def settle(self, requests: ServerRequests) -> None:
        """Take note that the app has accepted it."""
        if self.content is not None:
            requests.settle(self.content)

    def forget(self) -> None:
        """Let go of what was read."""
        self._pieces = []

    def _cut_off_as_answer(self, receive: Receive) -> Receive:
        names = MemberNames("method", *_OF_ANSWERS)
        methods = 0

        async def checked() -> Message:
            nonlocal methods
            message = await receive()
            while self.is_cut_off and message["type"] == "http.request":
                message = await receive()
            found = names.feed(message.get("body", b""))
            await asyncio.sleep(0)  # however many pieces are at hand, others have their turn
            methods += found.count("method")
            if methods > 1 or not _OF_ANSWERS.isdisjoint(found):
                self.is_cut_off = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return message

        return checked


async def _beginning(receive: Receive) -> tuple[list[bytes], bool]:
    """Return the pieces of a body that make a short one, and whether there are more."""
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size < SHORT:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        pieces.append(message.get("body", b""))
        size, more = size + len(pieces[-1]), message.get("more_body", False)
    return pieces, more


def _parsed(body: bytes) -> Any:
    if not _PERHAPS_READ.search(body):
        return None
    try:
        return json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None  # the app's to refuse
    except (ValueError, RecursionError):  # a number of thousands of digits, which other parsers read, or such a depth
        raise BodyTooLargeError from None


def _is_read_whole(beginning: bytes) -> bool:
    """Tell whether this may be the beginning of an answer, or is that of what the layer has to look at."""
    text = beginning.decode(json.detect_encoding(beginning), errors="replace").lstrip()
    if not text.startswith("{"):
        return not text or text.startswith("[")
    members = members_so_far(beginning)  # none in an encoding that is not UTF-8
    method = members.get("method")
    if not isinstance(method, str) or method.startswith("notifications/") or method in METHODS_THAT_SET:
        return True
    return not _OF_ANSWERS.isdisjoint(members)
