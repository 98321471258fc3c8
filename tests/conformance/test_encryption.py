"""Encryption of what is stored: sealed with the first key, opened with any, bound to its place."""

import asyncio
import base64
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mcp_sessions import ConfigurationError, EncryptionError, Handshake, Owner, SessionManager
from mcp_sessions.digests import digest_of
from mcp_sessions.sealing import key_id_of
from tests.support.managers import OpenManager
from tests.support.rows import Rows
from tests.support.states import one_more, opened

FIRST, SECOND, OTHER = (base64.b64encode(bytes([n]) * 32).decode() for n in range(3))
IDS = {key: key_id_of(base64.b64decode(key)) for key in (FIRST, SECOND, OTHER)}
WORDS = "the customer's own words"
HANDSHAKE = Handshake("2025-11-25", f'{{"method":"initialize","secret":"{WORDS}"}}')


async def everything(rows: Rows) -> str:
    """Return all that is stored, as text."""
    tables = ("sessions", "session_state", "session_handshakes", "session_events")
    return repr([await rows.fetch(f"SELECT * FROM {table}") for table in tables])


async def filled(manager: SessionManager) -> str:
    """Store a secret wherever one may be sealed; return the session id."""
    session_id = await manager.create_session(tenant_id="acme", handshake=HANDSHAKE)
    session = await manager.resume_session(session_id, Owner("acme"))
    assert session is not None
    await manager.state(session).set("words", WORDS)
    await manager.state(session).update("updated", lambda _: [WORDS])
    return session_id


async def assert_readable(manager: SessionManager, session_id: str) -> None:
    """All of it comes back."""
    session = await manager.resume_session(session_id, Owner("acme"))
    assert session is not None
    state = manager.state(session)
    assert await state.get("words") == WORDS
    assert await state.all() == {"words": WORDS, "updated": [WORDS]}
    assert await manager.get_handshake(session.digest) == HANDSHAKE


async def key_ids(rows: Rows) -> set[str | None]:
    """Return the keys that anything was sealed with."""
    tables = ("session_state", "session_handshakes")
    return {row["key_id"] for table in tables for row in await rows.fetch(f"SELECT key_id FROM {table}")}


async def test_nothing_stored_can_be_read(open_manager: OpenManager, rows: Rows) -> None:
    """With keys, no table holds what was stored; without, it is there to be read."""
    await filled(await open_manager())
    assert WORDS in (await everything(rows)).replace("\\'", "'")
    await (await open_manager()).clear_all_sessions()
    manager = await open_manager(encryption_keys=FIRST)
    session_id = await filled(manager)
    assert WORDS not in (await everything(rows)).replace("\\'", "'")
    assert await key_ids(rows) == {IDS[FIRST]}
    await assert_readable(manager, session_id)
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    assert await manager.state(session).sizes() == {"words": len(WORDS) + 2, "updated": len(WORDS) + 4}


async def test_equal_values_do_not_look_alike(open_manager: OpenManager, rows: Rows) -> None:
    """The same value, stored again, looks different each time."""
    manager = await open_manager(encryption_keys=FIRST)
    state = manager.state(await opened(manager))
    for name in ("a", "b", "c"):
        await state.set(name, WORDS)
    values = await rows.fetch("SELECT value FROM session_state")
    assert len({row["value"] for row in values}) == 3


async def test_a_missing_key_is_named(open_manager: OpenManager, rows: Rows) -> None:
    """Without the key, every read is an error that names it, an update too; nothing is taken for empty or changed."""
    session_id = await filled(await open_manager(encryption_keys=FIRST))
    before = await rows.fetch("SELECT * FROM session_state")
    for keys in (OTHER, None):
        manager = await open_manager(encryption_keys=keys)
        session = await manager.resume_session(session_id, Owner("acme"))
        assert session is not None
        state = manager.state(session)
        calls: list[Any] = [state.get("words"), state.all(), state.update("words", one_more)]
        for call in (*calls, manager.get_handshake(session.digest)):
            with pytest.raises(EncryptionError, match=f"the key {IDS[FIRST]}, which is not among encryption_keys"):
                await call
        assert await state.get("never stored") is None
    assert await rows.fetch("SELECT * FROM session_state") == before


async def test_what_was_moved_or_changed_does_not_open(open_manager: OpenManager, rows: Rows) -> None:
    """A value that somebody copies to another name or session, or changes, is an error and never a value."""
    manager = await open_manager(encryption_keys=FIRST)
    one, other = await opened(manager), await opened(manager)
    for session in (one, other):
        for name in ("admin", "visitor"):
            await manager.state(session).set(name, f"{name} of {session.short_digest}")
    mine = f"SELECT value FROM session_state WHERE {rows.among([one])} AND name ="
    for where, value in (
        (f"{rows.among([one])} AND name = 'visitor'", f"({mine} 'admin')"),
        (f"{rows.among([other])} AND name = 'admin'", f"({mine} 'admin')"),
        (f"{rows.among([other])} AND name = 'visitor'", "'not base64'"),
    ):
        await rows.execute(f"UPDATE session_state SET value = {value} WHERE {where}")
    assert await manager.state(one).get("admin") == f"admin of {one.short_digest}"
    for session, name in ((one, "visitor"), (other, "admin"), (other, "visitor")):
        with pytest.raises(EncryptionError, match="was changed, or moved"):
            await manager.state(session).get(name)


async def test_a_handshake_of_another_session_does_not_open(open_manager: OpenManager, rows: Rows) -> None:
    """A recorded handshake that somebody copies to another session is an error."""
    manager = await open_manager(encryption_keys=FIRST)
    one, other = [await manager.create_session(handshake=HANDSHAKE) for _ in range(2)]
    theirs = f"SELECT initialize FROM session_handshakes WHERE {rows.among([other])}"
    await rows.execute(f"UPDATE session_handshakes SET initialize = ({theirs}) WHERE {rows.among([one])}")
    with pytest.raises(EncryptionError):
        await manager.get_handshake(digest_of(one))


# The ring


@pytest.mark.slow
async def test_keys_can_be_changed_step_by_step(open_manager: OpenManager, rows: Rows) -> None:
    """From no keys to one, to another in front of it, to that one alone: everything stays readable throughout."""
    session_id = await filled(await open_manager())
    manager = await open_manager(encryption_keys=FIRST)
    await assert_readable(manager, session_id)
    assert await manager.reencrypt() == 3
    assert await key_ids(rows) == {IDS[FIRST]}
    manager = await open_manager(encryption_keys=[SECOND, FIRST])
    await assert_readable(manager, session_id)
    told: list[int] = []
    assert await manager.reencrypt(progress=told.append) == 3
    assert told == [1, 3]
    assert await key_ids(rows) == {IDS[SECOND]}
    assert await manager.reencrypt() == 0
    await assert_readable(await open_manager(encryption_keys=SECOND), session_id)


async def test_a_reencryption_needs_all_keys(open_manager: OpenManager, rows: Rows) -> None:
    """Without keys it is refused; where one is missing it stops with its name, and changes nothing it cannot open."""
    await filled(await open_manager(encryption_keys=FIRST))
    before = await everything(rows)
    with pytest.raises(ConfigurationError, match="encryption_keys"):
        await (await open_manager()).reencrypt()
    with pytest.raises(EncryptionError, match=IDS[FIRST]):
        await (await open_manager(encryption_keys=SECOND)).reencrypt()
    assert await everything(rows) == before


async def test_keys_are_changed_under_load(open_manager: OpenManager) -> None:
    """While workers with either ring count, and all is sealed anew again and again, no update is lost."""
    old, new = await open_manager(encryption_keys=[FIRST, SECOND]), await open_manager(encryption_keys=[SECOND, FIRST])
    session = await opened(old)
    stopped = asyncio.Event()

    async def counting(manager: SessionManager, name: str) -> int:
        for made in count():
            if stopped.is_set():
                return made
            await manager.state(session).update(name, one_more)
        raise AssertionError

    callers = [asyncio.create_task(counting(each, name)) for name in "abc" for each in (old, new)]
    for manager in (new, old) * 4:
        await manager.reencrypt()
    stopped.set()
    made = await asyncio.gather(*callers)
    assert sum((await new.state(session).all()).values()) == sum(made) > 0


# The settings


@pytest.fixture
def no_keys_in(tmp_path: Path) -> Path:
    """A file without keys."""
    file = tmp_path / "keys"
    file.write_text("# none yet\n\n")
    return file


async def test_keys_from_a_file(open_manager: OpenManager, rows: Rows, tmp_path: Path) -> None:
    """A file holds the ring, one key a line, the first one seals."""
    file = tmp_path / "keys"
    file.write_text(f"# since yesterday\n{SECOND}\n\n# before\n{FIRST}\n")
    await filled(await open_manager(encryption_keys_file=str(file)))
    assert await key_ids(rows) == {IDS[SECOND]}


async def test_bad_keys(open_manager: OpenManager, no_keys_in: Path) -> None:
    """Keys that are none, come twice, from two places or from a file that cannot be read are named, not repeated."""
    short = base64.b64encode(b"only sixteen by!").decode()
    for settings in (
        {"encryption_keys": "password"},
        {"encryption_keys": short},
        {"encryption_keys": f"{FIRST},{short}"},
        {"encryption_keys": f"{FIRST},{FIRST}"},
        {"encryption_keys": ","},
        {"encryption_keys": FIRST, "encryption_keys_file": str(no_keys_in)},
        {"encryption_keys_file": str(no_keys_in)},
        {"encryption_keys_file": "/nowhere"},
    ):
        with pytest.raises(
            ConfigurationError, match=r"encryption_keys(_file)? \(MCP_SESSIONS_ENCRYPTION_KEYS"
        ) as raised:
            await open_manager(**settings)
        assert FIRST not in str(raised.value)
        assert short not in str(raised.value)


async def test_keys_without_the_library(open_manager: OpenManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys are set and what seals with them is not installed, the start says what to install."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mcp-sessions\[encryption\]'"):
        await open_manager(encryption_keys=FIRST)
    await opened(await open_manager())
