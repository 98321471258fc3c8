"""``create_session``: what is stored, under which id, and what an id that is taken means."""

import asyncio
import re
from datetime import timedelta

import pytest

from mcp_sessions import DatabaseRefusedError, Handshake, McpSessionsError, Owner, SessionExistsError, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER

ACME = Owner(tenant_id="acme", client_id="cli-1", issuer="https://idp.example", subject="ann")


async def test_a_minted_id_holds_256_random_bits(manager: SessionManager) -> None:
    """Minted ids are 43 URL-safe characters, which is 32 bytes, and never the same twice."""
    minted = {await manager.create_session() for _ in range(50)}
    assert len(minted) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", session_id) for session_id in minted)


INCOMPRESSIBLE = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(341))
"""As many bytes as a part of an owner may have, which no index entry can hold in fewer."""


@pytest.mark.parametrize("session_id", ["x", "!~", "a" * 256, "');DROP/**/TABLE/**/sessions--"])
async def test_an_id_given_by_the_caller_is_kept(manager: SessionManager, session_id: str) -> None:
    """The caller's own id, of 1 to 256 visible characters, is returned and works."""
    assert await manager.create_session(session_id) == session_id
    assert await manager.is_session_valid(session_id)


async def test_only_the_digest_is_stored(manager: SessionManager, rows: Rows) -> None:
    """No column of any table holds the session id; the row is keyed by its SHA-256."""
    session_id = await manager.create_session("a-very-secret-session-id", tenant_id="acme")
    row = await rows.session(session_id)
    assert row is not None
    assert row["session_digest"] == digest_of(session_id)
    assert session_id not in repr(row)
    assert session_id.encode().hex() not in repr(row)


@pytest.mark.parametrize(
    "owner",
    [
        ACME,
        Owner(),
        Owner(tenant_id="acme"),
        Owner(issuer="https://idp.example", subject="ann"),
        Owner(INCOMPRESSIBLE, INCOMPRESSIBLE, INCOMPRESSIBLE, INCOMPRESSIBLE),
        Owner(tenant_id="x" * 512, client_id="✓" * 341, issuer="\U0010ffff\x01\x7f", subject=" \t\n'\"\\%_"),
        Owner(tenant_id="null", client_id="0", issuer="false", subject="[]"),
    ],
)
async def test_the_owner_is_stored_as_given(manager: SessionManager, owner: Owner) -> None:
    """All parts of the owner come back letter by letter, absent ones as absent."""
    session_id = await manager.create_session(
        tenant_id=owner.tenant_id, client_id=owner.client_id, issuer=owner.issuer, subject=owner.subject
    )
    session = await manager.resume_session(session_id, owner)
    assert session is not None
    assert session.owner == owner


async def test_its_times_are_the_databases(open_manager: OpenManager, rows: Rows) -> None:
    """A session begins at the database's clock, and expires one idle timeout and one touch interval later."""
    manager = await open_manager(idle_timeout=timedelta(minutes=10), touch_interval=timedelta(minutes=2))
    session_id = await manager.create_session()
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    assert session.created_at == session.last_activity_at
    assert session.expires_at == session.created_at + timedelta(minutes=12)
    assert session.created_at.utcoffset() == timedelta(0)
    query = "strftime('%s', 'now')" if rows.on_sqlite else "extract(epoch FROM clock_timestamp())"
    seconds_ago = float(await rows.value(f"SELECT {query} AS now")) - session.created_at.timestamp()
    assert -1 <= seconds_ago < 30


async def test_a_taken_id_is_an_error_and_nothing_is_overwritten(manager: SessionManager, rows: Rows) -> None:
    """Creating a live session's id again fails clearly and leaves the row as it was."""
    session_id = await manager.create_session("taken", tenant_id="acme", client_id="cli-1")
    before = await rows.session(session_id)
    with pytest.raises(SessionExistsError, match="nothing was overwritten") as caught:
        await manager.create_session(session_id, tenant_id="evil")
    assert isinstance(caught.value, McpSessionsError)
    assert session_id not in str(caught.value)
    assert await rows.session(session_id) == before


async def test_an_expired_id_is_taken_until_it_is_swept(manager: SessionManager, rows: Rows) -> None:
    """An expired row that is not swept yet is not overwritten either; once swept, its id is free again."""
    session_id = await manager.create_session("taken", tenant_id="acme")
    await rows.age(session_id, timedelta(days=1))
    before = await rows.session(session_id)
    with pytest.raises(SessionExistsError):
        await manager.create_session(session_id, tenant_id="evil")
    assert await rows.session(session_id) == before
    assert await manager.cleanup_stale_sessions() == 1
    assert await manager.create_session(session_id, tenant_id="evil") == session_id


async def test_a_terminated_id_is_free_again(manager: SessionManager) -> None:
    """After its end an id that the caller chose can be created anew, as a new session."""
    await manager.create_session("mine", tenant_id="acme")
    await manager.terminate_session("mine")
    await manager.create_session("mine", tenant_id="other")
    assert await manager.resume_session("mine", Owner(tenant_id="acme")) is None
    assert await manager.resume_session("mine", Owner(tenant_id="other")) is not None


async def test_the_stored_digest_is_no_session_id(manager: SessionManager) -> None:
    """Whoever reads a digest from the database cannot use it, in hex, as an id."""
    session_id = await manager.create_session(tenant_id="acme")
    stolen = digest_of(session_id).hex()
    assert not await manager.is_session_valid(stolen)
    assert await manager.resume_session(stolen, Owner(tenant_id="acme")) is None


async def test_a_handshake_lives_and_dies_with_its_session(manager: SessionManager, rows: Rows) -> None:
    """A recorded handshake is found by the digest, and goes with the session however that ends."""
    handshake = Handshake("2025-11-25", '{"method": "initialize", "é": "✓"}')
    ids = [await manager.create_session(tenant_id="acme", handshake=handshake) for _ in range(4)]
    assert await manager.get_handshake(digest_of(ids[0])) == handshake
    await manager.terminate_session(ids[0])
    assert await manager.get_handshake(digest_of(ids[0])) is None
    await rows.age(ids[1], timedelta(days=1))
    await manager.cleanup_stale_sessions()
    assert await rows.count("session_handshakes") == 2
    await manager.terminate_sessions(tenant_id="acme")
    assert await rows.count("session_handshakes") == 0


async def test_a_refused_creation_records_no_handshake(manager: SessionManager, rows: Rows) -> None:
    """Where the id is taken, the handshake of the refused creation is not stored."""
    await manager.create_session("taken")
    with pytest.raises(SessionExistsError):
        await manager.create_session("taken", handshake=Handshake("2025-11-25", "{}"))
    assert await rows.count("session_handshakes") == 0


async def test_creations_that_share_a_statement_keep_their_own_handshakes(manager: SessionManager, rows: Rows) -> None:
    """Of creations at the same moment, each has the handshake that it came with, and one that is taken has none."""
    await manager.create_session("taken")
    handshakes = {f"session-{n}": Handshake("2025-11-25", f'{{"id": {n}}}') if n % 3 else None for n in range(12)}
    attempts = [manager.create_session(name, handshake=given) for name, given in handshakes.items()]
    taken = manager.create_session("taken", handshake=Handshake("2025-11-25", "{}"))
    *names, refused = await asyncio.gather(*attempts, taken, return_exceptions=True)
    assert names == list(handshakes)
    assert isinstance(refused, SessionExistsError)
    for name, given in [*handshakes.items(), ("taken", None)]:
        assert await manager.get_handshake(digest_of(name)) == given
    assert await rows.count("session_handshakes") == 8


async def test_a_creation_that_the_database_refuses_fails_alone(manager: SessionManager, rows: Rows) -> None:
    """Of creations that share a statement, one with values that the database refuses takes no other with it."""
    await rows.execute(
        "CREATE TRIGGER no_mallory BEFORE INSERT ON sessions WHEN NEW.subject = 'mallory' "
        "BEGIN SELECT RAISE(ABORT, 'not her'); END"
        if rows.on_sqlite
        else "ALTER TABLE sessions ADD CONSTRAINT no_mallory CHECK (subject <> 'mallory')"
    )
    subjects = ["ann", "bob", "mallory", "carl", "dora"]
    creations = (manager.create_session(subject=subject) for subject in subjects)
    outcomes = dict(zip(subjects, await asyncio.gather(*creations, return_exceptions=True), strict=True))
    assert isinstance(outcomes.pop("mallory"), DatabaseRefusedError)
    for subject, session_id in outcomes.items():
        assert await manager.resume_session(str(session_id), Owner(subject=subject)) is not None
    assert await rows.count() == len(outcomes)
