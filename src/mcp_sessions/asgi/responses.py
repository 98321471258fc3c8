"""What the layer answers by itself: constant but for the id of the request, so that no refusal tells more than another.

Foreign, unknown, expired and ended sessions share ``NOT_FOUND``. The bodies are JSON-RPC errors as a client's parser
expects them, with the id of the request where it is known; nothing else that a client sent is repeated in them.
"""

import json
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Self

from mcp_sessions.asgi.types import Headers, Send

_INVALID_REQUEST = -32600  # JSON-RPC 2.0, section 5.1
_INTERNAL_ERROR = -32603


@dataclass(frozen=True)
class Response:
    """A complete response of the layer's own."""

    status: HTTPStatus
    body: bytes = b""
    headers: Headers = field(default_factory=list)

    def to(self, request_id: str | int | None) -> Self:
        """Return it as the response to the JSON-RPC request with this id."""
        if request_id is None or not self.body:
            return self
        return replace(self, body=json.dumps({**json.loads(self.body), "id": request_id}).encode())

    async def __call__(self, send: Send) -> None:
        """Send it."""
        length = (b"content-length", b"%d" % len(self.body))
        headers = [*self.headers, length] if self.body else list(self.headers)
        await send({"type": "http.response.start", "status": int(self.status), "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _error(status: HTTPStatus, message: str, code: int = _INVALID_REQUEST, headers: Headers | None = None) -> Response:
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    return Response(status, json.dumps(body).encode(), [(b"content-type", b"application/json"), *(headers or [])])


ACCEPTED = Response(HTTPStatus.ACCEPTED)
ENDED = Response(HTTPStatus.NO_CONTENT)
NOT_FOUND = _error(HTTPStatus.NOT_FOUND, "Session not found")
MISSING_ID = _error(HTTPStatus.BAD_REQUEST, "Mcp-Session-Id header missing; a session begins with initialize")
MALFORMED_ID = _error(HTTPStatus.BAD_REQUEST, "Mcp-Session-Id must be one header with one well-formed session id")
BATCHED_INITIALIZE = _error(HTTPStatus.BAD_REQUEST, "initialize must not be part of a batch")
UNKNOWN_ANSWER = _error(
    HTTPStatus.BAD_REQUEST, "An answer to no request that waits for one here: the server asks again where it has to"
)
TOO_MUCH_SET = _error(HTTPStatus.BAD_REQUEST, "The client has set too much for this session: unsubscribe from some")
TOO_LARGE = _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request too large")
TOO_SLOW = _error(HTTPStatus.REQUEST_TIMEOUT, "The request took too long to arrive")
FORBIDDEN = _error(HTTPStatus.FORBIDDEN, "This principal cannot own a session")
DELETE_DISABLED = _error(
    HTTPStatus.METHOD_NOT_ALLOWED, "Clients cannot end sessions here", headers=[(b"allow", b"GET, POST")]
)
MISCONFIGURED = _error(
    HTTPStatus.INTERNAL_SERVER_ERROR, "The server's sessions are not set up correctly", _INTERNAL_ERROR
)
UNAVAILABLE = _error(  # says nothing about the session: a 404 would oblige the client to throw it away
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Sessions are unavailable at the moment",
    _INTERNAL_ERROR,
    headers=[(b"retry-after", b"2")],
)
