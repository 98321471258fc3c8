"""Bad input: one clear error of ours, on both engines alike, with nothing done; and nobody else pays for it."""

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import (
    Handshake,
    InvalidInputError,
    InvalidOwnerError,
    InvalidSessionIdError,
    McpSessionsError,
    Owner,
    SessionManager,
)
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.rows import Rows

BAD_IDS: dict[str, Any] = {
    "empty": "",
    "257 characters": "a" * 257,
    "space": "a b",
    "only spaces": "   ",
    "trailing newline": "a\n",
    "tab": "a\tb",
    "NUL": "a\x00",
    "escape": "\x1b[31m",
    "DEL": "a\x7f",
    "accent": "caf\u00e9",
    "full-width letter": "\uff41",
    "lone surrogate": "a\ud800",
    "line separator": "a\u2028",
    "bytes": b"a",
    "None": None,
    "number": 7,
    "list": ["a"],
}

BAD_TEXTS: dict[str, Any] = {
    "empty": "",
    "513 characters": "a" * 513,
    "NUL": "a\x00b",
    "lone high surrogate": "a\ud800",
    "lone low surrogate": "\udfffa",
    "bytes": b"acme",
    "number": 7,
    "list": ["acme"],
    "True": True,
}

ID_CALLS: dict[str, Callable[[SessionManager, Any], Any]] = {
    "create": lambda manager, bad: manager.create_session(bad, tenant_id="acme"),
    "resume": lambda manager, bad: manager.resume_session(bad, Owner()),
    "valid": lambda manager, bad: manager.is_session_valid(bad),
    "metadata": lambda manager, bad: manager.get_session_metadata(bad),
    "touch": lambda manager, bad: manager.touch_session(bad),
    "terminate": lambda manager, bad: manager.terminate_session(bad),
}

OWNER_PARTS = ("tenant_id", "client_id", "issuer", "subject")


async def refused(call: Any, error: type[McpSessionsError]) -> str:
    """Make a call that must fail, and return the message."""
    with pytest.raises(error) as caught:
        await call
    assert isinstance(caught.value, McpSessionsError)
    message = str(caught.value)
    assert message
    message.encode()  # can be logged and sent anywhere
    return message


async def test_bad_session_ids(manager: SessionManager, rows: Rows) -> None:
    """No method takes an id that no session can have; the message does not repeat it, and no row is touched."""
    for call_name, call in ID_CALLS.items():
        for bad_name, bad in BAD_IDS.items():
            if (call_name, bad_name) == ("create", "None"):
                continue  # there it asks for a minted id
            message = await refused(call(manager, bad), InvalidSessionIdError)
            assert not isinstance(bad, str) or len(bad) < 3 or bad not in message
    assert await rows.count() == 0


async def test_bad_owner_texts(manager: SessionManager, rows: Rows) -> None:
    """Text that not both databases can store is refused in every part of an owner, and the part is named."""
    for part in OWNER_PARTS:
        for bad in BAD_TEXTS.values():
            message = await refused(manager.create_session(**{part: bad}), InvalidOwnerError)
            assert part in message
            with pytest.raises(InvalidOwnerError, match=part):
                Owner(**{part: bad})
    assert await rows.count() == 0


async def test_bad_filters(manager: SessionManager, rows: Rows) -> None:
    """Filters are parts of an owner, and held to the same; an empty text does not mean everybody."""
    await manager.create_session()
    before = await rows.fetch("SELECT * FROM sessions")
    for bad in BAD_TEXTS.values():
        for part in OWNER_PARTS:
            assert part in await refused(manager.terminate_sessions(**{part: bad}), InvalidOwnerError)
        for part in ("tenant_id", "client_id", "subject"):
            assert part in await refused(manager.list_sessions(**{part: bad}), InvalidOwnerError)
        for part in ("tenant_id", "client_id"):
            assert part in await refused(manager.get_active_session_count(**{part: bad}), InvalidOwnerError)
    assert await rows.fetch("SELECT * FROM sessions") == before


@pytest.mark.parametrize("bad", [None, "acme", ("acme", None, None, None), {"tenant_id": "acme"}, 7])
async def test_an_owner_that_is_none(manager: SessionManager, rows: Rows, bad: Any) -> None:
    """What is no ``Owner`` is an error, never taken for an absent or an anonymous one."""
    session_id = await manager.create_session()
    before = await rows.session(session_id)
    await refused(manager.resume_session(session_id, bad), InvalidOwnerError)
    await refused(manager.terminate_session(session_id, owner=bad), InvalidOwnerError)
    await refused(manager.terminate_digest(digest_of(session_id), owner=bad), InvalidOwnerError)
    assert await rows.session(session_id) == before


async def test_a_resume_always_names_an_owner(manager: SessionManager) -> None:
    """``None`` is no owner either: the anonymous one is ``Owner()``."""
    session_id = await manager.create_session(tenant_id="acme")
    await refused(manager.resume_session(session_id, None), InvalidOwnerError)  # type: ignore[arg-type]  # the point


async def test_bad_reasons(manager: SessionManager, rows: Rows) -> None:
    """An end reason has 1 to 256 characters that both databases can store; otherwise nothing ends."""
    session_id = await manager.create_session(tenant_id="acme")
    for bad in (*BAD_TEXTS.values(), None, "a" * 257):
        assert "reason" in await refused(manager.terminate_session(session_id, reason=bad), InvalidInputError)
        digest = digest_of(session_id)
        assert "reason" in await refused(manager.terminate_digest(digest, reason=bad), InvalidInputError)
        call = manager.terminate_sessions(tenant_id="acme", reason=bad)
        assert "reason" in await refused(call, InvalidInputError)
    assert await rows.count() == 1


async def test_bad_digests(manager: SessionManager) -> None:
    """A digest is 32 bytes; anything else is an error, not an absent session."""
    for bad in cases(b"", b"short", b"x" * 33, "a" * 32, None, 7):
        await refused(manager.terminate_digest(bad), InvalidInputError)
        await refused(manager.get_handshake(bad), InvalidInputError)


async def test_bad_digest_prefixes(manager: SessionManager) -> None:
    """The beginning of a digest is 1 to 64 hex digits."""
    for bad in cases("", "g", "0x1", "a" * 65, " a", "a\n", "\uff11", b"ab", None, 7):
        assert "hex digits" in await refused(manager.find_sessions(bad), InvalidInputError)


async def test_bad_limits(manager: SessionManager) -> None:
    """A page has 1 to 1000 sessions: a whole number of them."""
    for bad in cases(0, -1, 1001, 10**30, 1.5, "10", None, True, float("nan")):
        assert "1000" in await refused(manager.list_sessions(limit=bad), InvalidInputError)
        assert "1000" in await refused(manager.find_sessions("ab", limit=bad), InvalidInputError)


def cases(*bad: Any) -> tuple[Any, ...]:
    """Values of any type, wherever the types of the arguments would forbid them."""
    return bad


def cursor(moment: str, digest: bytes = bytes(32)) -> str:
    """Write a cursor as the manager does, of parts that it would not write."""
    return base64.urlsafe_b64encode(moment.encode() + b" " + digest).decode()


async def test_bad_cursors(manager: SessionManager) -> None:
    """A cursor that no page gave is an error."""
    await manager.create_session()
    for bad in cases(
        "",
        "x",
        "not a cursor",
        "é",
        "\ud800",
        "AAAA",
        cursor("2026-01-01T00:00:00+00:00", b"short"),
        cursor("2026-01-01T00:00:00+00:00", bytes(33)),
        cursor("2026-01-01T00:00:00"),
        cursor("yesterday"),
        cursor("9999-12-31T23:59:59-23:59"),
        cursor("0001-01-01T00:00:00+23:59"),
        cursor("2026-01-01T00:00:00+00:00") + "\n",
        "=" * 100_000,
        b"AAAA",
        7,
    ):
        assert "next_cursor" in await refused(manager.list_sessions(cursor=bad), InvalidInputError)


async def test_bad_handshakes(manager: SessionManager, rows: Rows) -> None:
    """A handshake is text that both databases can store; otherwise no session is created."""
    for bad in cases("", "a\x00", "\ud800", 7, None, b"{}"):
        for parts in ((bad, "{}"), ("2025-11-25", bad)):
            with pytest.raises(InvalidInputError, match=r"protocol_version|initialize"):
                await manager.create_session("never", handshake=Handshake(*parts))
        no_handshake: Any = bad or "{}"
        await refused(manager.create_session("never", handshake=no_handshake), InvalidInputError)
    assert await rows.count() == 0


async def test_nobody_else_pays(manager: SessionManager, rows: Rows) -> None:
    """Calls that would share a statement with a bad one are answered as if it had not been made."""
    ids = [await manager.create_session(tenant_id="acme") for _ in range(4)]
    await rows.age_all(timedelta(minutes=10))
    calls: list[Any] = []
    bad_ones: list[Any] = ["\x00", "\ud800", b"", "a" * 999]
    for session_id, bad in zip(ids, bad_ones, strict=True):
        calls += [
            manager.create_session(tenant_id=bad),
            manager.create_session(tenant_id="acme"),
            manager.resume_session(session_id, bad),
            manager.resume_session(session_id, Owner(tenant_id="acme")),
            manager.terminate_session(session_id, owner=bad),
            manager.terminate_session("unknown"),
            manager.terminate_digest(bad),
        ]
    answers = await together(*(outcome(call) for call in calls))
    kinds = [type(answer).__name__ for answer in answers]
    bad_owner, bad_input = "InvalidOwnerError", "InvalidInputError"
    assert kinds == [bad_owner, "str", bad_owner, "Session", bad_owner, "bool", bad_input] * 4


async def outcome(call: Any) -> Any:
    """Return what a call answers, or the error of ours that it raises."""
    try:
        return await call
    except McpSessionsError as error:
        return error
