"""Session ids, digests, owners and sessions: plain data that refuses what no database could keep."""

import hashlib
import re
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions.digests import digest_of, mint_session_id, short_digest
from mcp_sessions.errors import InvalidInputError, InvalidOwnerError, InvalidSessionIdError
from mcp_sessions.records.sessions import OWNER_FIELDS, Owner, Session, SessionPage
from mcp_sessions.validation import checked_reason

VISIBLE_ASCII = st.characters(min_codepoint=0x21, max_codepoint=0x7E)

# Session ids


def test_a_minted_id_carries_256_bits_in_visible_ascii() -> None:
    """An id is 43 URL-safe characters, accepted as an id, and never minted twice."""
    minted = {mint_session_id() for _ in range(1000)}
    assert len(minted) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", session_id) for session_id in minted)
    assert all(len(digest_of(session_id)) == 32 for session_id in minted)


@given(st.text(VISIBLE_ASCII, min_size=1, max_size=256))
def test_a_digest_is_the_sha256_of_the_id(session_id: str) -> None:
    """Every id that the MCP specification allows, up to 256 characters, has its SHA-256 as digest."""
    assert digest_of(session_id) == hashlib.sha256(session_id.encode()).digest()


@pytest.mark.parametrize(
    "session_id",
    ["", " ", "a b", "a\n", "\ta", "a\x00", "a\x7f", "\x1b[0m", "ä", "\u00a0", "\ud800", "\U0001f600", "a" * 257],
)
def test_what_cannot_be_an_id_is_refused_without_repeating_it(session_id: str) -> None:
    """Empty, over-long, space, control and non-ASCII characters are refused; the message never holds the id."""
    with pytest.raises(InvalidSessionIdError, match=r"^a session id is text of 1 to 256 visible ASCII") as raised:
        digest_of(session_id)
    if len(session_id) > 3:
        assert session_id not in str(raised.value)


@pytest.mark.parametrize("session_id", [None, b"an-id", 7])
def test_what_is_no_text_is_no_id(session_id: object) -> None:
    """An id of another type is refused as an id of ours, not as a slip of Python's."""
    with pytest.raises(InvalidSessionIdError, match=r"^a session id is text"):
        digest_of(session_id)  # type: ignore[arg-type]  # what a caller without a type checker may do


def test_a_short_digest_is_twelve_hex_digits() -> None:
    """Logs show the first 12 hex digits of a digest."""
    digest = digest_of("an-id")
    assert short_digest(digest) == hashlib.sha256(b"an-id").hexdigest()[:12]


# Owners


@pytest.mark.parametrize("part", OWNER_FIELDS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "must have 1 to 512 characters, not 0"),
        ("a" * 513, "must have 1 to 512 characters, not 513"),
        ("a\x00b", r"must not hold U\+0000, at position 1"),
        ("\ud800", r"must not hold U\+D800, at position 0"),
        ("ab\udfff", r"must not hold U\+DFFF, at position 2"),
        ("\U0001f600" * 257, "must have at most 1024 bytes in UTF-8, not 1028"),
        (7, "must be text, not int"),
        (b"acme", "must be text, not bytes"),
    ],
)
def test_a_part_that_cannot_be_stored_is_refused(part: str, value: object, said: str) -> None:
    """Each part of an owner is refused by its name when it is empty, over-long, no text, or not storable."""
    with pytest.raises(InvalidOwnerError, match=f"^{part} {said}"):
        Owner(**{part: value})  # type: ignore[arg-type]  # what a caller without a type checker may do


@pytest.mark.parametrize("part", OWNER_FIELDS)
@pytest.mark.parametrize("value", [" ", "a" * 512, "Ärzte & Söhne", "\U0001f600", "'; DROP TABLE sessions; --", "\n"])
def test_any_other_text_is_an_owners(part: str, value: str) -> None:
    """Any text of up to 512 characters is kept as it is."""
    assert getattr(Owner(**{part: value}), part) == value


@given(
    st.tuples(*[st.none() | st.sampled_from("ab")] * 4),
    st.tuples(*[st.none() | st.sampled_from("ab")] * 4),
)
def test_owners_are_equal_as_a_whole(one: tuple[str | None, ...], other: tuple[str | None, ...]) -> None:
    """Two owners are equal if and only if all four parts are, an absent part equalling only an absent one."""
    assert (Owner(*one) == Owner(*other)) == (one == other)


def test_owners_cannot_be_changed() -> None:
    """An owner is frozen, so it can be trusted after it was checked."""
    with pytest.raises(FrozenInstanceError):
        Owner().tenant_id = "acme"  # type: ignore[misc]  # mypy refuses it too


# End reasons


@pytest.mark.parametrize("reason", ["", "a" * 257, "a\x00", "\ud800"])
def test_a_reason_that_cannot_be_stored_is_refused(reason: str) -> None:
    """An end reason has 1 to 256 characters, without NUL and lone surrogates."""
    with pytest.raises(InvalidInputError, match=r"^reason must "):
        checked_reason(reason)


def test_a_reason_is_kept() -> None:
    """An end reason that can be stored is returned as it is."""
    assert checked_reason("a" * 256) == "a" * 256


# Sessions


def a_session(**changes: object) -> Session:
    """Make a session that was just created."""
    now = datetime.now(UTC)
    values = {
        "digest": digest_of("an-id"),
        "owner": Owner(tenant_id="acme"),
        "created_at": now,
        "last_activity_at": now,
        "expires_at": now + timedelta(minutes=30),
    }
    return Session(**(values | changes))  # type: ignore[arg-type]  # the values above have the right types


def test_a_session_shows_its_digest_shortly() -> None:
    """A session knows the form in which logs show it."""
    assert a_session().short_digest == digest_of("an-id").hex()[:12]


def test_a_session_cannot_be_changed() -> None:
    """A session is a frozen record."""
    with pytest.raises(FrozenInstanceError):
        a_session().expires_at = datetime.now(UTC)  # type: ignore[misc]  # mypy refuses it too


def test_a_page_is_gone_through_like_a_list() -> None:
    """A page has a length and yields its sessions in order."""
    one, other = a_session(), a_session(digest=digest_of("another-id"))
    page = SessionPage((one, other), next_cursor=None)
    assert len(page) == 2
    assert list(page) == [one, other]
