"""A client's request on its way to the app: read as far as it takes to know whether it answers the server.

An answer to a request of the server's goes to the app under the id that the app gave, or not at all. 64 KiB of a body
tell whether it may be one, and then it is read to its end, within a bound. Any other body that is longer passes as it
comes and is never held. A short one stays referenced until the app begins its response, to be given to it a second time
where it has dropped its own session meanwhile: both SDKs read a body to its end before they say so.
"""

import json
import re
from datetime import timedelta
from typing import Any

from mcp_sessions.asgi.body import SHORT, ClientGoneError, RepeatableBody, Take, read_whole, whole
from mcp_sessions.asgi.headers import CONTENT_LENGTH, replaced
from mcp_sessions.asgi.jsonrpc import CUT_OFF, members_so_far
from mcp_sessions.asgi.server_requests import PROGRESS, ServerRequests
from mcp_sessions.asgi.types import Message, Receive, Scope

_PERHAPS_READ = re.compile(  # a letter may be escaped; UTF-16 has zeros
    rb'"result"|"error"|notifications|setLevel|subscribe|\\u00|\x00'
)


class ClientMessage:
    """What a client sends on a session, as far as it was read.

    Attributes:
        is_short: whether it can be given to the app twice.
        content: what of it the app may see; None where it is none of those that are looked at.

    """

    def __init__(self, rest: RepeatableBody, pieces: list[bytes], *, is_complete: bool) -> None:
        self.is_short = is_complete and sum(map(len, pieces)) <= SHORT
        self._rest = rest
        self._pieces = pieces
        self._is_complete = is_complete
        self.content = _parsed(b"".join(pieces)) if is_complete else None
        self._content_as_read = self.content

    @classmethod
    async def read(cls, receive: RepeatableBody, *, limit: int, patience: timedelta, take: Take) -> "ClientMessage":
        """Read the beginning of a request, and within the bounds of ``read_whole`` all of what may answer the server.

        Raises:
            BodyTooLargeError, BodyTooSlowError, NoRoomError: what may answer the server is beyond a bound.
            ClientGoneError: the client has left before.

        """
        pieces: list[bytes] = []
        size, more = 0, True
        while more and size < SHORT:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
        if (more or size > limit) and _may_answer(b"".join(pieces)[:SHORT]):
            begun = cls(receive, pieces, is_complete=not more)
            pieces = [await read_whole(begun._passed, limit=limit, patience=patience, take=take)]
            more = False
        return cls(receive, pieces, is_complete=not more)

    def for_app(self, scope: Scope, requests: ServerRequests) -> tuple[Scope, Receive] | None:
        """Return the request as the app may see it, from its beginning; None where nothing of it is left to be seen.

        Raises:
            UnknownAnswerError: it answers no request that waits here.

        """
        message = requests.to_app(self.content)
        if message is self._content_as_read:
            return scope, self._repeated() if self.is_short else self._passed
        if message is None:
            return None
        body = json.dumps(message).encode()
        headers = replaced(scope["headers"], CONTENT_LENGTH, b"%d" % len(body))
        return {**scope, "headers": headers}, whole(body, self._rest)

    def settle(self, requests: ServerRequests) -> None:
        """Take note that the app has accepted it."""
        if self.content is not None:
            requests.settle(self.content)

    def forget(self) -> None:
        """Let go of what was read."""
        self._pieces = []
        self._rest.forget()

    def _repeated(self) -> Receive:
        return whole(b"".join(self._pieces), self._rest)

    async def _passed(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or not self._is_complete}
        return await self._rest()


def _parsed(body: bytes) -> Any:
    if not _PERHAPS_READ.search(body):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None  # the app's to refuse


def _may_answer(beginning: bytes) -> bool:
    if beginning.lstrip().startswith(b"["):
        return True
    members = members_so_far(beginning)
    method = members.get("method", CUT_OFF)
    is_other = method is not CUT_OFF and method != PROGRESS and not members.keys() & {"result", "error"}
    return beginning.lstrip().startswith(b"{") and not is_other
