"""The session id and the revision, as the headers of a request say them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions.asgi.headers import (
    PROTOCOL_VERSION,
    SESSION_ID,
    MalformedSessionIdError,
    first_value,
    has_no_sessions,
    replaced,
    session_id_in,
)
from mcp_sessions.asgi.types import Scope

OTHERS = [(b"host", b"example"), (b"cookie", b"mcp-session-id=x"), (b"x-mcp-session-id", b"y")]


def scope(*headers: tuple[bytes, bytes]) -> Scope:
    """The scope of a request with these headers among others."""
    return {"type": "http", "headers": [*OTHERS, *headers]}


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=256))
def test_every_visible_character_but_the_comma_may_stand_in_an_id(session_id: str) -> None:
    """An id of 1 to 256 visible ASCII characters is found as it is; a comma would make a list."""
    assert session_id_in(scope((SESSION_ID, session_id.encode()))) == session_id


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_whatever_bytes_come_are_one_id_or_malformed(values: list[bytes]) -> None:
    """Any bytes in any number of headers give the one id that they are, or the one error, which repeats nothing."""
    request = scope(*((SESSION_ID, value) for value in values))
    (value, *others) = values
    if not others and 1 <= len(value) <= 256 and all(0x21 <= byte <= 0x7E and byte != 0x2C for byte in value):
        assert session_id_in(request) == value.decode()
    else:
        with pytest.raises(MalformedSessionIdError, match=r"^$"):
            session_id_in(request)


def test_other_headers_name_no_session() -> None:
    """A request without the header has no session id, whatever else it has."""
    assert session_id_in(scope()) is None


@pytest.mark.parametrize(
    ("version", "without"),
    [
        (b"2024-11-05", False),
        (b"2025-11-25", False),
        (b"2026-07-27", False),
        (b"2026-07-28", True),
        (b"2027-01-01", True),
        (b"9999", False),
        (b"zzzz-zz-zz", False),
        (b"2026-07-28, 2025-11-25", False),
        (b"", False),
    ],
)
def test_revisions_from_2026_07_28_on_have_no_sessions(version: bytes, *, without: bool) -> None:
    """Only what is a revision, and that one or a later one, passes the layer by."""
    assert has_no_sessions(scope((PROTOCOL_VERSION, version))) is without


def test_request_without_a_revision_has_sessions() -> None:
    """Without the header, a request is of a revision with sessions."""
    assert has_no_sessions(scope()) is False


def test_replacing_leaves_one_or_none() -> None:
    """Every header of that name goes, however it is written, and the others stay."""
    headers = [(b"Mcp-Session-Id", b"a"), (b"host", b"h"), (b"mcp-session-id", b"b")]
    assert replaced(headers, SESSION_ID, b"c") == [(b"host", b"h"), (SESSION_ID, b"c")]
    assert replaced(headers, SESSION_ID, None) == [(b"host", b"h")]


def test_first_value_of_a_header() -> None:
    """The first of several counts, however it is written; none is None."""
    assert first_value([(b"A", b"1"), (b"a", b"2")], b"a") == b"1"
    assert first_value([(b"b", b"1")], b"a") is None
