"""The few headers that the layer reads and writes; ASGI hands their names over in lower case.

The session id stands in exactly one ``Mcp-Session-Id`` header. A second one, or a list in one, is refused rather than
guessed at: two parties on the way must not read two different ids from one request.
"""

import re
from collections.abc import Iterable

from mcp_sessions.asgi.types import Headers, Message, Scope
from mcp_sessions.digests import SESSION_ID_MAX_LENGTH

SESSION_ID = b"mcp-session-id"
PROTOCOL_VERSION = b"mcp-protocol-version"
ACCEPT_ENCODING = b"accept-encoding"
CONTENT_LENGTH = b"content-length"
CONTENT_ENCODING = b"content-encoding"
CONTENT_TYPE = b"content-type"
LAST_EVENT_ID = b"last-event-id"
CONNECTION = b"connection"

_ONE_SESSION_ID = re.compile(rb"[\x21-\x2b\x2d-\x7e]{1,%d}" % SESSION_ID_MAX_LENGTH)  # visible ASCII, no comma
_REVISION = re.compile(rb"\d{4}-\d{2}-\d{2}")
_FIRST_WITHOUT_SESSIONS = b"2026-07-28"
_WITH_SESSIONS = {b"2024-11-05", b"2025-03-26", b"2025-06-18", b"2025-11-25"}


class MalformedSessionIdError(ValueError):
    """The ``Mcp-Session-Id`` of a request is not one well-formed id."""


def session_id_in(scope: Scope) -> str | None:
    """Return the session id of a request, or None where it has none.

    Raises:
        MalformedSessionIdError: there are several, or the one is not 1 to 256 visible ASCII characters (MCP
            specification 2025-11-25, Transports, Session Management).

    """
    values = _values(scope, SESSION_ID)
    if not values:
        return None
    if len(values) > 1 or not _ONE_SESSION_ID.fullmatch(values[0]):
        raise MalformedSessionIdError
    return values[0].decode("ascii")


def has_no_sessions(scope: Scope) -> bool:
    """Tell whether a request is of revision 2026-07-28 or a later one, which have no sessions (SEP-2567)."""
    values = _values(scope, PROTOCOL_VERSION)
    return bool(values and _REVISION.fullmatch(values[0]) and values[0] >= _FIRST_WITHOUT_SESSIONS)


def may_have_sessions(scope: Scope) -> bool:
    """Tell whether a request is of a revision that is known to have sessions, or names none."""
    values = _values(scope, PROTOCOL_VERSION)
    return not values or values[0] in _WITH_SESSIONS


def is_json(scope: Scope) -> bool:
    """Tell whether a request says that its body is JSON."""
    return (first_value(scope["headers"], CONTENT_TYPE) or b"").split(b";")[0].strip().lower() == b"application/json"


def replaced(headers: Iterable[tuple[bytes, bytes]], name: bytes, value: bytes | None) -> Headers:
    """Return the headers with one of that name and value, or with none where the value is None."""
    kept = [(key, kept_value) for key, kept_value in headers if key.lower() != name]
    return kept if value is None else [*kept, (name, value)]


def first_value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header in a request or a response, or None."""
    return next((value for key, value in headers if key.lower() == name), None)


def headers_of(start: Message) -> Headers:
    """Return the headers of a response; ASGI lets an app that has none leave them out."""
    return list(start.get("headers", ()))


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
