"""The migrations one by one: what they make, what they keep, and what is left when one of them fails."""

import signal
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from mcp_sessions import Handshake, SessionManager
from mcp_sessions.db.engines import migration_engine
from mcp_sessions.db.schema.revisions import current_revision, downgrade, head_revision, upgrade
from mcp_sessions.db.tables import VERSION_TABLE, metadata
from mcp_sessions.errors import DatabaseError, DatabaseUnavailableError
from mcp_sessions.settings import Settings
from tests.support.migrating import ARCHIVE, ROOT, add_revision, copy_of_the_scripts, finish, start_alembic
from tests.support.plain import Row, catalog, execute, rows, tables
from tests.support.processes import poll

REVISIONS = [script.revision for script in ScriptDirectory(str(ROOT / "migrations")).walk_revisions()][::-1]
TRIGGERS = ("trigger ", "function ", "view ")
"""What Alembic's scripts make and no MetaData knows."""


MESSAGES = """
    INSERT INTO workers VALUES ('worker', 'host', 1, '2026-01-01 00:00:00.000', '2026-01-01 00:00:15.000');
    INSERT INTO messages (worker_id, session_digest, kind, body, sent_at)
    SELECT 'worker', session_digest, 'kind', 'body', created_at FROM sessions;
"""


async def fill(url: str) -> None:
    """Leave a row in every table of the newest schema: by the manager, and what passes by quickly, by hand."""
    async with SessionManager.open(url, scheduled_cleanup=False) as manager:
        await manager.create_session(tenant_id="acme", client_id="cli-1", issuer="https://issuer", subject="user")
        await manager.create_session(tenant_id="acme", handshake=Handshake("2025-06-18", '{"method":"initialize"}'))
        for session in await manager.list_sessions():
            await manager.state(session).set("cart", ["apples"])
            await manager.change_client_settings(session.digest, lambda _: {"logging/setLevel": "{}"})
        await manager.key_values.put("tokens", "key", "{}", seconds=60)
        await manager.cleanup_stale_sessions()
    await execute(url, MESSAGES)
    assert {name for name, found in (await tables(url)).items() if found} == {*metadata.tables, VERSION_TABLE}


def assert_kept(before: list[Row], now: list[Row]) -> None:
    """Every row is there, with its values in the columns that both schemas have."""
    assert len(now) == len(before)
    columns = before[0].keys() & now[0].keys()
    assert columns
    for name in columns:
        assert sorted(repr(row[name]) for row in now) == sorted(repr(row[name]) for row in before)


# What they make


async def test_the_tables_are_those_of_the_model(database_url: str) -> None:
    """The migrations make the very columns, constraints and indexes, by name, that the MetaData would make."""
    migrated = [line for line in await catalog(database_url) if VERSION_TABLE not in line]
    settings = Settings(database_url=database_url)
    await downgrade(settings, "base")
    await execute(database_url, f"DROP TABLE {ARCHIVE}")
    engine = migration_engine(settings)
    async with engine.begin() as connection:
        await connection.run_sync(create_tables)
    await engine.dispose()
    modelled = [line for line in await catalog(database_url) if VERSION_TABLE not in line]
    assert [line for line in migrated if not line.startswith(TRIGGERS)] == modelled
    assert [line.split()[0] for line in migrated if line.startswith(TRIGGERS)] != []


def create_tables(connection: Connection) -> None:
    """Create the tables without Alembic."""
    metadata.create_all(connection)


async def test_every_name_follows_the_convention(postgres_url: str) -> None:
    """Each constraint and index says in its name what it is and whose."""
    query = """
        SELECT contype::text AS kind, relname AS of, conname AS name
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f', 'u', 'c') AND relname <> $1
        UNION ALL
        SELECT CASE WHEN indisunique THEN 'u' ELSE 'i' END, tablename, indexname
        FROM pg_indexes JOIN pg_index ON indexrelid = format('%I', indexname)::regclass
        WHERE schemaname = 'public' AND NOT indisprimary AND tablename <> $1
    """
    prefixes = {"p": "pk", "f": "fk", "u": "uq", "c": "ck", "i": "ix"}
    named = await rows(postgres_url, query, VERSION_TABLE)
    assert {row["kind"] for row in named} == set(prefixes)
    for row in named:
        assert row["name"].startswith(f"{prefixes[row['kind']]}_{row['of']}"), row


async def test_an_expiry_brought_forward_by_hand_takes_the_cleanup_along(database_url: str) -> None:
    """After an operator's UPDATE of expires_at, cleanup_at is not after it."""
    await fill(database_url)
    await execute(database_url, "UPDATE sessions SET expires_at = created_at")
    found = await rows(database_url, "SELECT cleanup_at = expires_at AS followed FROM sessions")
    assert [row["followed"] for row in found] == [True, True]


# What they keep


async def test_a_step_down_and_up_again_keeps_the_rows(database_url: str) -> None:
    """Each step down keeps the rows of the tables that it leaves, and so does each step up again."""
    await fill(database_url)
    settings = Settings(database_url=database_url)
    full, newest_schema = await tables(database_url), await catalog(database_url)
    for revision in REVISIONS[-2::-1]:
        await downgrade(settings, "-1")
        assert await current_revision(settings) == revision
        kept = await tables(database_url)
        assert "sessions" in kept
        for name in kept.keys() - {VERSION_TABLE}:
            assert_kept(full["session_events" if name == ARCHIVE else name], kept[name])
    for revision in REVISIONS[1:]:
        await upgrade(settings, "+1")
        assert await current_revision(settings) == revision
    whole_again = await tables(database_url)
    for row in full["sessions"]:
        del row["settings_version"]  # what it is the version of went with its table
    assert_kept(full["sessions"], whole_again["sessions"])
    assert_kept(full["session_events"], whole_again["session_events"])
    assert await catalog(database_url) == newest_schema


async def test_the_way_down_to_nothing_can_be_gone_up_again(database_url: str) -> None:
    """`downgrade base` leaves an empty version table and the archived trail; `upgrade head` makes the schema again."""
    settings = Settings(database_url=database_url)
    newest_schema = await catalog(database_url)
    await downgrade(settings, "base")
    assert await tables(database_url) == {VERSION_TABLE: [], ARCHIVE: []}
    await upgrade(settings)
    assert await catalog(database_url) == newest_schema


async def test_a_session_outlives_a_downgrade(database_url: str) -> None:
    """A session made before a step down and up is resumable after it."""
    settings = Settings(database_url=database_url)
    async with SessionManager.open(database_url, idle_timeout=timedelta(hours=1)) as manager:
        session_id = await manager.create_session(tenant_id="acme")
    await downgrade(settings, REVISIONS[0])
    await upgrade(settings)
    async with SessionManager.open(database_url) as manager:
        assert await manager.is_session_valid(session_id)


# What is left when one fails


async def test_a_migration_that_fails_leaves_nothing_of_those_before_it(empty_database_url: str) -> None:
    """Where a table of a later migration is in the way, not even the first migration is left."""
    await execute(empty_database_url, "CREATE TABLE cleanup_runs (theirs integer)")
    before = await catalog(empty_database_url)
    with pytest.raises(DatabaseError, match=r"refused: .*cleanup_runs.* already exists$") as raised:
        await upgrade(Settings(database_url=empty_database_url))
    assert "\n" not in str(raised.value)
    assert await catalog(empty_database_url) == before


@pytest.mark.slow
async def test_a_migration_that_is_killed_leaves_the_old_revision(database_url: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of a migration leaves the schema as it was, ready to be migrated."""
    before = await catalog(database_url)
    scripts = copy_of_the_scripts(tmp_path)
    middle = tmp_path / "middle"
    body = f"""
op.add_column('sessions', sa.Column('half', sa.Text))
pathlib.Path({str(middle)!r}).touch()
sys.stdin.read()
"""
    add_revision(scripts, body)
    process = start_alembic("-x", f"url={database_url}", "upgrade", "head", cwd=scripts)
    try:
        poll(middle.exists, seconds=20, waiting_for="the middle of the migration")
    finally:
        process.send_signal(signal.SIGKILL)
        finish(process)
    settings = Settings(database_url=database_url)
    await upgrade(settings)
    assert await current_revision(settings) == head_revision()
    assert await catalog(database_url) == before


@pytest.mark.slow
async def test_a_migration_waits_for_a_table_with_a_bound(postgres_url: str) -> None:
    """While another transaction reads a table, its removal fails within seconds, in one line, nothing half done."""
    before = await catalog(postgres_url)
    reader = await asyncpg.connect(postgres_url)
    try:
        async with reader.transaction():
            await reader.execute("LOCK TABLE sessions IN ACCESS SHARE MODE")
            with pytest.raises(DatabaseUnavailableError, match=r"lock timeout$") as raised:
                await downgrade(Settings(database_url=postgres_url), "base")
    finally:
        await reader.close(timeout=5)
    assert "\n" not in str(raised.value)
    assert await catalog(postgres_url) == before
    assert await current_revision(Settings(database_url=postgres_url)) == head_revision()


async def test_a_migration_on_sqlite_waits_for_a_writer_with_a_bound(sqlite_url: str) -> None:
    """While another process writes, a migration of SQLite fails after the busy timeout, in one line."""
    settings = Settings(database_url=sqlite_url, sqlite_busy_timeout=timedelta(milliseconds=100))
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert await current_revision(settings) == head_revision()
        with pytest.raises(DatabaseUnavailableError, match=r"database is locked$"):
            await downgrade(settings, "base")
    assert await current_revision(settings) == head_revision()
