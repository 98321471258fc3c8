"""The little JSON-RPC that the layer reads: what kind of message one is, and whether ``initialize`` succeeded.

An app may answer ``initialize`` with status 200 and a JSON-RPC error in it, as JSON or as an event stream, and a
failed ``initialize`` must leave no session behind. So the response is read up to the message that decides.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mcp_sessions.asgi.event_streams import EventSplitter, data_in

CUT_OFF = object()
"""The value of a member whose text is not complete."""

_BLANKS = frozenset(" \t\r\n")  # RFC 8259, section 2
_DECODER = json.JSONDecoder()
_MOST_MEMBERS = 64  # that are looked at: a message has four
_LONGEST_ID = 256  # characters of JSON, for an id that an error of the layer's own repeats


class BatchedInitializeError(Exception):
    """An ``initialize`` request stands in a batch, which the specification forbids (2025-03-26, Lifecycle)."""


@dataclass(frozen=True, slots=True)
class Initialize:
    """An ``initialize`` request: its id and its whole text, to be recorded."""

    request_id: str | int
    text: str


def initialize_in(body: bytes) -> Initialize | None:
    """Return the ``initialize`` request that a body is, or None where it is something else.

    Raises:
        BatchedInitializeError: the body is a batch with an ``initialize`` in it.

    """
    message = _parsed(body)
    if isinstance(message, list) and any(_is_initialize(part) for part in message):
        raise BatchedInitializeError
    if _is_initialize(message) and isinstance(message.get("id"), str | int):
        return Initialize(message["id"], body.decode())
    return None


def is_message(body: bytes) -> bool:
    """Tell whether a body is a JSON-RPC message, or a batch."""
    message = _parsed(body)
    return isinstance(message, list) or (isinstance(message, dict) and "jsonrpc" in message)


def request_id_in(body: bytes) -> str | int | None:
    """Return the id of the request that a body is; None where it is none, or the id too long to be repeated."""
    return request_id_of_message(_parsed(body))


def request_id_of_message(message: Any) -> str | int | None:
    """Return the id of a request, or None, as ``request_id_in`` does."""
    if not isinstance(message, dict) or "method" not in message:
        return None
    request_id = message.get("id")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        return None
    return request_id if len(json.dumps(request_id)) <= _LONGEST_ID else None


def _is_initialize(message: Any) -> bool:
    return isinstance(message, dict) and message.get("method") == "initialize"


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None


def members_so_far(beginning: bytes) -> dict[str, Any]:
    """Return the first members that the beginning of an object's text tells of, the last one perhaps ``CUT_OFF``."""
    members: dict[str, Any] = {}
    text = beginning.decode(errors="replace")
    at, separator = _behind_blanks(text, int(text.startswith("\ufeff"))), "{"
    try:
        while text.startswith(separator, at) and len(members) < _MOST_MEMBERS:
            key, at = _value(text, at + 1)
            if not isinstance(key, str) or not text.startswith(":", at):
                break
            members[key] = CUT_OFF
            members[key], at = _value(text, at + 1)
            separator = ","
    except (ValueError, RecursionError):
        pass
    return members


def _value(text: str, at: int) -> tuple[Any, int]:
    value, at = _DECODER.raw_decode(text, _behind_blanks(text, at))
    return value, _behind_blanks(text, at)


def _behind_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in _BLANKS:
        at += 1
    return at


class ResponseFinder:
    """Finds the response to one request in what an app sends, JSON or event stream, as its pieces come by."""

    def __init__(self, request_id: str | int, content_type: bytes) -> None:
        self._request_id = request_id
        self._is_stream = content_type.lower().startswith(b"text/event-stream")
        self._events = EventSplitter()
        self._document = bytearray()

    def feed(self, piece: bytes, *, last: bool) -> dict[str, Any] | None:
        """Take the next piece; return the response with ``result`` or ``error`` once it is complete."""
        for text in self._complete(piece, last):
            message = _parsed(text)
            if isinstance(message, dict) and message.get("id") == self._request_id and "method" not in message:
                return message
        return None

    def _complete(self, piece: bytes, last: bool) -> Iterator[bytes]:
        if self._is_stream:
            yield from (data_in(event) or b"" for event in self._events.feed(piece))
            return
        self._document += piece
        if last:
            yield bytes(self._document)
