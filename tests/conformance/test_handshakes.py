"""Recorded handshakes: each belongs to one life of a session, whoever ended that life, and how."""

import sqlite3
from contextlib import closing

import asyncpg
import pytest

from mcp_sessions import Handshake, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.managers import ON_POSTGRES, ON_SQLITE
from tests.support.rows import Rows

FIRST, SECOND = Handshake("2025-03-26", '{"of": "the first life"}'), Handshake("2025-06-18", '{"of": "the second"}')
COLUMNS = "session_digest, created_at, last_activity_at, expires_at, cleanup_at"


@ON_SQLITE
async def test_a_delete_in_a_shell_takes_the_handshake_along(manager: SessionManager, rows: Rows) -> None:
    """A shell of SQLite has foreign keys off; what it deletes leaves no handshake to a later session all the same."""
    await manager.create_session("again", handshake=FIRST)
    await manager.create_session("other", handshake=FIRST)
    await rows.execute(f"DELETE FROM sessions WHERE {rows.among(['again'])}")
    assert await rows.count("session_handshakes") == 1
    await manager.create_session("again")
    assert await manager.get_handshake(digest_of("again")) is None
    assert await manager.get_handshake(digest_of("other")) == FIRST


@ON_SQLITE
@pytest.mark.parametrize("recursive", ["ON", "OFF"])
async def test_a_replaced_row_has_no_handshake(manager: SessionManager, rows: Rows, recursive: str) -> None:
    """An INSERT OR REPLACE by hand begins a new life, which is not restored by the handshake of the old one."""
    await manager.create_session("again", handshake=FIRST)
    with closing(sqlite3.connect(rows.url.removeprefix("sqlite:///"), isolation_level=None)) as shell:
        shell.execute(f"PRAGMA recursive_triggers = {recursive}")
        shell.execute(f"INSERT OR REPLACE INTO sessions ({COLUMNS}) SELECT {COLUMNS} FROM sessions")
    assert await manager.is_session_valid("again")
    assert await manager.get_handshake(digest_of("again")) is None


@ON_SQLITE
async def test_a_handshake_left_behind_is_not_inherited(manager: SessionManager, rows: Rows) -> None:
    """A handshake without a session, however it came about, is gone once a session with that id is created."""
    await manager.create_session("again", handshake=FIRST)
    await rows.execute("CREATE TABLE copy AS SELECT * FROM session_handshakes")
    assert await manager.terminate_session("again")
    await rows.execute("INSERT INTO session_handshakes SELECT * FROM copy")
    await manager.create_session("again")
    assert await manager.get_handshake(digest_of("again")) is None


@ON_POSTGRES
async def test_a_new_handshake_takes_the_place_of_one_left_behind(manager: SessionManager, rows: Rows) -> None:
    """Where a superuser switched the foreign keys off, the next session with that id has its own handshake."""
    await manager.create_session("again", handshake=FIRST)
    connection = await asyncpg.connect(rows.url)
    try:
        await connection.execute("SET session_replication_role = replica; DELETE FROM sessions")
    finally:
        await connection.close(timeout=10)
    assert await rows.count("session_handshakes") == 1
    await manager.create_session("again", handshake=SECOND)
    assert await manager.get_handshake(digest_of("again")) == SECOND
