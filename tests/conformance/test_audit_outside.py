"""What is done to sessions by hand, in SQL, is in the audit trail too; and the trail itself is not changed by hand."""

import sqlite3

import asyncpg
import pytest

from mcp_sessions import SessionManager
from tests.support.managers import ON_POSTGRES
from tests.support.rows import Rows
from tests.support.trail import Trail


async def test_a_delete_by_hand_is_recorded(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """Each row that an operator deletes leaves its end, marked as done outside the application; others leave none."""
    mine = [await manager.create_session(tenant_id="acme", client_id=str(number)) for number in range(3)]
    other = await manager.create_session(tenant_id="other")
    await rows.execute("DELETE FROM sessions WHERE tenant_id = 'acme'")
    for number, session_id in enumerate(mine):
        _, ended = await trail.events(session_id)
        assert (ended["kind"], ended["actor"], ended["client_id"]) == ("deleted", "database", str(number))
        assert ended["reason"].startswith("deleted outside the application")
        assert 0 <= ended["lifetime_seconds"] < 60
    assert await trail.kinds(other) == ["created"]
    await trail.agrees_with_the_table()


@ON_POSTGRES
async def test_a_delete_by_hand_names_the_role(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """On Postgres the end of a session deleted by hand says which role did it."""
    await manager.create_session()
    await rows.execute("DELETE FROM sessions")
    (ended,) = await trail.events(kind="deleted")
    assert ended["reason"] == "deleted outside the application, by postgres"


@ON_POSTGRES
async def test_a_truncate_by_hand_is_recorded(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """On Postgres a TRUNCATE leaves an end for each session as well."""
    ids = [await manager.create_session() for _ in range(3)]
    await rows.execute("TRUNCATE sessions CASCADE")
    assert await trail.kinds() == ["created"] * 3 + ["deleted"] * 3
    assert await trail.kinds(ids[0]) == ["created", "deleted"]
    await trail.agrees_with_the_table()


async def test_a_session_inserted_by_hand_is_recorded(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """A row that somebody inserts has its beginning in the trail, and ends like any other."""
    await manager.create_session("theirs", tenant_id="acme")
    columns = "tenant_id, created_at, last_activity_at, expires_at, cleanup_at"
    digest = "x'" + "ab" * 32 + "'" if rows.on_sqlite else r"'\x" + "ab" * 32 + "'"
    await rows.execute(f"INSERT INTO sessions (session_digest, {columns}) SELECT {digest}, {columns} FROM sessions")
    assert await manager.terminate_sessions(tenant_id="acme") == 2
    assert await trail.kinds() == ["created", "created", "revoked", "revoked"]
    await trail.agrees_with_the_table()


async def test_a_row_put_back_by_hand_can_be_ended_again(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """A session whose row was restored after its end is ended like any other, and keeps the end that it had."""
    session_id = await manager.create_session()
    await rows.execute("CREATE TABLE copy AS SELECT * FROM sessions")
    assert await manager.terminate_session(session_id)
    await rows.execute("INSERT INTO sessions SELECT * FROM copy")
    assert await manager.terminate_session(session_id)
    assert await rows.count() == 0
    assert await trail.kinds() == ["created", "terminated"]


@pytest.mark.parametrize(
    "change",
    ["reason = 'another'", "tenant_id = 'other'", "occurred_at = session_created_at", "kind = kind"],
)
async def test_an_event_is_never_changed(manager: SessionManager, trail: Trail, rows: Rows, change: str) -> None:
    """An UPDATE of an event is refused, whoever tries, and nothing changes."""
    await manager.create_session(tenant_id="acme")
    before = await trail.events()
    with pytest.raises((asyncpg.RaiseError, sqlite3.IntegrityError), match="append-only"):
        await rows.execute(f"UPDATE session_events SET {change}")
    assert await trail.events() == before


@ON_POSTGRES
async def test_the_trail_is_never_truncated(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """On Postgres a TRUNCATE of the trail is refused."""
    await manager.create_session()
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await rows.execute("TRUNCATE session_events")
    assert await trail.kinds() == ["created"]


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("kind, is_end", "'invented', true"),
        ("kind, is_end", "'refused', true"),
        ("kind, is_end", "'terminated', false"),
        ("kind, is_end", "'terminated', NULL"),
        ("kind, is_end", "'created', true"),
        ("kind, is_end, actor", "'terminated', true, 'nobody'"),
    ],
)
async def test_an_event_makes_sense(
    manager: SessionManager, trail: Trail, rows: Rows, columns: str, values: str
) -> None:
    """The tables themselves refuse events of unknown kinds and actors, and ends that are none."""
    await manager.create_session()
    known = [name.strip() for name in columns.split(",")]
    rest = [
        name for name in ("occurred_at", "reason", "actor", "session_digest", "session_created_at") if name not in known
    ]
    insert = f"INSERT INTO session_events ({columns}, {', '.join(rest)})"
    with pytest.raises((asyncpg.CheckViolationError, sqlite3.IntegrityError), match="ck_session_events"):
        await rows.execute(f"{insert} SELECT {values}, {', '.join(rest)} FROM session_events")
    assert await trail.kinds() == ["created"]


async def test_a_life_ends_once(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """The tables themselves refuse a second end of the same life."""
    await manager.terminate_session(await manager.create_session())
    columns = "occurred_at, kind, reason, actor, session_digest, session_created_at, is_end"
    with pytest.raises((asyncpg.UniqueViolationError, sqlite3.IntegrityError)):
        await rows.execute(
            f"INSERT INTO session_events ({columns}) SELECT {columns} FROM session_events WHERE kind = 'terminated'"
        )
    assert await trail.kinds() == ["created", "terminated"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.slow
async def test_a_bulk_delete_by_hand_stays_reasonable(database_url: str, count: int) -> None:
    """However many rows are deleted by hand in one statement, each leaves its end, in the time of a test."""
    rows = Rows(database_url, patience=300)
    if rows.on_sqlite:
        numbers = f"(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)"
        digest, hour = "randomblob(32)", "strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 hour')"
        moment = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    else:
        numbers = f"(SELECT i FROM generate_series(1, {count}) i)"
        digest, hour, moment = "sha256(i::text::bytea)", "now() + interval '1 hour'", "now()"
    columns = "session_digest, tenant_id, created_at, last_activity_at, expires_at, cleanup_at"
    await rows.execute(
        f"INSERT INTO sessions ({columns}) SELECT {digest}, 'acme', {moment}, {moment}, {hour}, {hour} FROM {numbers} n"
    )
    await rows.execute("DELETE FROM sessions WHERE tenant_id = 'acme'")
    assert await rows.count() == 0
    assert await rows.count("session_events") == 2 * count
    lives = "SELECT session_digest, session_created_at FROM session_events WHERE kind"
    assert await rows.count(f"({lives} = 'deleted') AS ended") == count
    assert await rows.count(f"({lives} = 'created' EXCEPT {lives} = 'deleted') AS not_ended") == 0
