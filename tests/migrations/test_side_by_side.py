"""The tables beside others: in a schema of their own, twice in one database, several databases in one process."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.schema.revisions import check_differences, current_revision, downgrade, head_revision, upgrade
from mcp_sessions.db.tables import VERSION_TABLE, metadata
from mcp_sessions.errors import DatabaseError
from mcp_sessions.settings import Settings
from tests.support.migrating import (
    ARCHIVE,
    add_revision,
    alembic,
    copy_of_the_scripts,
    execute_printed,
    failed_alembic,
    finish,
    start_alembic,
)
from tests.support.plain import catalog, execute, rows, tables
from tests.support.postgres import PostgresServer

OURS = {*metadata.tables, VERSION_TABLE}


async def test_a_schema_of_the_operators_choice(empty_postgres_url: str, postgres_url: str) -> None:
    """`-x schema=` makes a missing schema, and everything in it; public stays empty."""
    alembic("-x", f"url={empty_postgres_url}", "-x", "schema=Own", "upgrade", "head")
    assert await catalog(empty_postgres_url, "Own") == await catalog(postgres_url)
    assert await catalog(empty_postgres_url) == []


@pytest.mark.slow
async def test_the_schema_of_the_settings_serves_sessions(empty_postgres_url: str) -> None:
    """MCP_SESSIONS_DATABASE_SCHEMA names the schema for `alembic`, `database_schema` for the manager."""
    alembic("upgrade", "head", MCP_SESSIONS_DATABASE_URL=empty_postgres_url, MCP_SESSIONS_DATABASE_SCHEMA="own")
    async with SessionManager.open(empty_postgres_url, database_schema="own") as manager:
        await manager.create_session(tenant_id="acme")
        assert await manager.get_active_session_count() == 1
        await execute(empty_postgres_url, "UPDATE own.sessions SET expires_at = created_at")
        assert await manager.get_active_session_count() == 0
        assert await manager.cleanup_stale_sessions() == 1
    assert await tables(empty_postgres_url) == {}


async def test_two_schemas_do_not_know_each_other(empty_postgres_url: str) -> None:
    """Two schemas of one database migrate apart, and taking one down leaves the other's rows."""
    one = Settings(database_url=empty_postgres_url, database_schema="one")
    other = Settings(database_url=empty_postgres_url, database_schema="other")
    await upgrade(one)
    assert await current_revision(other) is None
    await upgrade(other)
    async with SessionManager.open_with(other, scheduled_cleanup=False) as manager:
        await manager.create_session()
    await downgrade(one, "base")
    assert await tables(empty_postgres_url, "one") == {VERSION_TABLE: [], ARCHIVE: []}
    assert len((await tables(empty_postgres_url, "other"))["sessions"]) == 1
    await check_differences(other)


async def test_asking_makes_no_schema(empty_postgres_url: str) -> None:
    """`alembic current` on a database without the schema prints nothing and makes nothing."""
    assert alembic("-x", f"url={empty_postgres_url}", "-x", "schema=own", "current") == ""
    assert await rows(empty_postgres_url, "SELECT 1 FROM pg_namespace WHERE nspname = 'own'") == []


@pytest.fixture
def schema_owner(postgres_server: PostgresServer, empty_postgres_url: str) -> Iterator[str]:
    """The URL of an empty database for a role that owns the schema `own` there and may create no other."""
    database = empty_postgres_url.rpartition("/")[2]
    postgres_server.execute(
        "CREATE ROLE schema_owner LOGIN", "CREATE SCHEMA own AUTHORIZATION schema_owner", database=database
    )
    yield empty_postgres_url.replace("postgres@", "schema_owner@")
    postgres_server.execute("DROP OWNED BY schema_owner", "DROP ROLE schema_owner", database=database)


@pytest.mark.slow
async def test_an_existing_schema_takes_no_privilege_to_create_one(schema_owner: str) -> None:
    """Who may not create schemas can migrate the one that was made for them, online and by printed SQL."""
    with pytest.raises(DatabaseError, match="permission denied for database"):
        await upgrade(Settings(database_url=schema_owner, database_schema="another"))
    settings = Settings(database_url=schema_owner, database_schema="own")
    await upgrade(settings)
    migrated = await catalog(schema_owner, "own")
    await downgrade(settings, "base")
    await execute(schema_owner, f'DROP TABLE own."{VERSION_TABLE}"')
    command = ("-x", f"url={schema_owner}", "-x", "schema=own", "upgrade", "head")
    execute_printed(schema_owner, alembic(*command, "--sql"))
    assert await catalog(schema_owner, "own") == migrated


async def test_another_history_and_its_tables_are_left_alone(empty_database_url: str) -> None:
    """In a database that somebody else migrates with Alembic, only our own tables come and go."""
    await execute(
        empty_database_url,
        "CREATE TABLE orders (id integer); CREATE TABLE alembic_version (version_num text);"
        "INSERT INTO alembic_version VALUES ('theirs')",
    )
    before = await tables(empty_database_url)
    settings = Settings(database_url=empty_database_url)
    await upgrade(settings)
    assert (await tables(empty_database_url)).keys() == OURS | before.keys()
    await check_differences(settings)
    await downgrade(settings, "base")
    assert await tables(empty_database_url) == {**before, VERSION_TABLE: [], ARCHIVE: []}


async def test_several_databases_of_one_process_migrate_at_once(tmp_path: Path, empty_postgres_url: str) -> None:
    """Upgrades that run concurrently in one process each reach their own database."""
    urls = [f"sqlite:///{tmp_path}/{number}.db" for number in range(4)] + [empty_postgres_url]
    await asyncio.gather(*(upgrade(Settings(database_url=url)) for url in urls))
    assert [set(await tables(url)) for url in urls] == [OURS] * 5


async def test_a_migration_goes_through_pgbouncer(pgbouncer_url: str, postgres_url: str) -> None:
    """Behind a PgBouncer in transaction mode a database migrates down and up, and none of it sticks there."""
    settings = Settings(database_url=pgbouncer_url, pgbouncer=True, database_schema="own")
    await upgrade(settings)
    assert await catalog(pgbouncer_url, "own") == await catalog(postgres_url)
    await downgrade(settings, "base")
    assert await tables(postgres_url, "own") == {VERSION_TABLE: [], ARCHIVE: []}
    assert await current_revision(Settings(database_url=pgbouncer_url, pgbouncer=True)) == head_revision()


CONCURRENT_INDEX = """
op.execute("ALTER TABLE sessions ADD COLUMN note text")
with op.get_context().autocommit_block():
    op.create_index("ix_sessions_note", "sessions", ["note"], postgresql_concurrently=True, if_not_exists=True)
op.execute("COMMENT ON TABLE sessions IS 'written after the block'")
"""


@pytest.mark.slow
async def test_a_concurrent_index_is_built_once(empty_postgres_url: str, tmp_path: Path) -> None:
    """Of several at once one builds an index outside a transaction, in the right schema, and no other interferes."""
    settings = Settings(database_url=empty_postgres_url, database_schema="own")
    await upgrade(settings)
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session()
    scripts = copy_of_the_scripts(tmp_path)
    add_revision(scripts, CONCURRENT_INDEX)
    command = ("-x", f"url={empty_postgres_url}", "-x", "schema=own", "upgrade", "head")
    results = [finish(process) for process in [start_alembic(*command, cwd=scripts) for _ in range(3)]]
    assert [result.returncode for result in results] == [0] * 3, [result.stderr for result in results]
    assert sum("-> 9001" in result.stderr for result in results) == 1
    assert await rows(
        empty_postgres_url,
        "SELECT indisvalid, obj_description(indrelid) AS said FROM pg_index"
        " WHERE indexrelid = 'own.ix_sessions_note'::regclass",
    ) == [{"indisvalid": True, "said": "written after the block"}]


@pytest.mark.slow
async def test_a_concurrent_index_is_printed_for_the_right_schema(empty_postgres_url: str, tmp_path: Path) -> None:
    """The printed SQL of a migration with an index outside a transaction stays in the schema that was named."""
    scripts = copy_of_the_scripts(tmp_path)
    add_revision(scripts, CONCURRENT_INDEX)
    command = ("-x", f"url={empty_postgres_url}", "-x", "schema=own", "upgrade", "head")
    execute_printed(empty_postgres_url, alembic(*command, "--sql", cwd=scripts))
    assert await tables(empty_postgres_url) == {}
    printed = await catalog(empty_postgres_url, "own")
    await execute(empty_postgres_url, "DROP SCHEMA own CASCADE")
    alembic(*command, cwd=scripts)
    assert await catalog(empty_postgres_url, "own") == printed


async def test_a_migration_gives_up_on_another_one_in_the_end(postgres_url: str, tmp_path: Path) -> None:
    """When another migration still runs after the longest wait, the command fails in one line."""
    env = copy_of_the_scripts(tmp_path) / "migrations" / "env.py"
    script = env.read_text()
    longest_wait = "SECONDS_FOR_ANOTHER_MIGRATION = 600"
    assert longest_wait in script
    env.write_text(script.replace(longest_wait, "SECONDS_FOR_ANOTHER_MIGRATION = 0"))
    (lock,) = re.findall(r"^ADVISORY_LOCK = (0x\w+)$", script, re.MULTILINE)
    other = await asyncpg.connect(postgres_url)
    try:
        await other.execute(f"SELECT pg_advisory_lock({int(lock, 16)})")
        line = failed_alembic("-x", f"url={postgres_url}", "downgrade", "base", cwd=tmp_path)
    finally:
        await other.close(timeout=5)
    assert line.endswith("is not available: another migration was still running after 0 s")
    assert await current_revision(Settings(database_url=postgres_url)) == head_revision()
