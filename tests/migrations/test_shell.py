"""`alembic` at the shell: where it finds its database, what it prints, and many of it at once."""

from pathlib import Path

import pytest

from mcp_sessions.db.schema.revisions import current_revision, downgrade, head_revision, upgrade
from mcp_sessions.db.tables import VERSION_TABLE
from mcp_sessions.settings import Settings
from tests.support.migrating import (
    ARCHIVE,
    ROOT,
    alembic,
    copy_of_the_scripts,
    execute_printed,
    failed_alembic,
    finish,
    start_alembic,
)
from tests.support.plain import catalog, execute, tables

pytestmark = pytest.mark.slow


async def revision_of(url: str) -> str | None:
    """Return the revision that a database is at."""
    return await current_revision(Settings(database_url=url))


# Where the database is named


async def test_the_environment_names_the_database(empty_database_url: str) -> None:
    """At the project root `alembic upgrade head` migrates the database of MCP_SESSIONS_DATABASE_URL."""
    alembic("upgrade", "head", MCP_SESSIONS_DATABASE_URL=empty_database_url)
    assert await revision_of(empty_database_url) == head_revision()


async def test_an_argument_wins_over_the_environment(empty_sqlite_url: str, tmp_path: Path) -> None:
    """`-x url=` is migrated, and the database of the environment is left alone."""
    other = tmp_path / "other.db"
    alembic("-x", f"url={empty_sqlite_url}", "upgrade", "head", MCP_SESSIONS_DATABASE_URL=f"sqlite:///{other}")
    assert await revision_of(empty_sqlite_url) == head_revision()
    assert not other.exists()


async def test_the_default_is_the_embedded_file_in_the_current_folder(tmp_path: Path) -> None:
    """From another folder, with `-c` and nothing set, the embedded SQLite file is made and migrated there."""
    alembic("-c", ROOT / "alembic.ini", "upgrade", "head", cwd=tmp_path)
    assert await revision_of(f"sqlite:///{tmp_path}/mcp-sessions.db") == head_revision()


async def test_an_env_file_beside_the_scripts_is_read(tmp_path: Path) -> None:
    """`.env` in the current folder names the database."""
    copy_of_the_scripts(tmp_path)
    (tmp_path / ".env").write_text("MCP_SESSIONS_DATABASE_URL=sqlite:///named.db\n")
    alembic("upgrade", "head", cwd=tmp_path)
    assert await revision_of(f"sqlite:///{tmp_path}/named.db") == head_revision()


# What is said when something is wrong


def test_a_misspelt_argument_is_refused(tmp_path: Path) -> None:
    """An unknown `-x` argument migrates nothing, least of all the default database."""
    line = failed_alembic("-x", "ulr=sqlite:///x.db", "-c", ROOT / "alembic.ini", "upgrade", "head", cwd=tmp_path)
    assert line == "unknown argument -x ulr; there are -x url= and -x schema="
    assert list(tmp_path.iterdir()) == []


async def test_an_unknown_revision_is_told_with_what_mends_it(sqlite_url: str) -> None:
    """Where a newer version has migrated the database, Alembic's own command names both revisions too."""
    await execute(sqlite_url, "UPDATE mcp_sessions_alembic_version SET version_num = '9999'")
    line = failed_alembic("-x", f"url={sqlite_url}", "upgrade", "head")
    assert "9999" in line
    assert f"mcp-sessions db downgrade {head_revision()}" in line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://user:geheim@127.0.0.1:1/db", "postgresql://user:***@127.0.0.1:1/db is not available"),
        ("mysql://user:geheim@host/db", "unknown engine 'mysql'"),
        ("sqlite:////nowhere/at/all.db", "create it first"),
    ],
)
def test_a_wrong_url_is_told_in_one_line(url: str, said: str) -> None:
    """A database that cannot be reached or named fails the command with one line and without the password."""
    line = failed_alembic("upgrade", "head", MCP_SESSIONS_DATABASE_URL=url)
    assert said in line
    assert "geheim" not in line


# Comparing


async def test_check_finds_no_difference(database_url: str) -> None:
    """`alembic check` is content with a migrated database, also beside tables and a history of somebody else."""
    await execute(
        database_url,
        "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('theirs');"
        "CREATE TABLE orders (id integer); CREATE INDEX ix_orders_id ON orders (id);",
    )
    assert "No new upgrade operations detected" in alembic("-x", f"url={database_url}", "check")


async def test_check_finds_a_difference(sqlite_url: str) -> None:
    """`alembic check` fails where a column or an index of ours is missing."""
    await execute(sqlite_url, "DROP INDEX ix_sessions_cleanup_at; ALTER TABLE cleanup_runs DROP COLUMN error")
    line = failed_alembic("-x", f"url={sqlite_url}", "check")
    assert "ix_sessions_cleanup_at" in line
    assert "'error'" in line


# Printed SQL


async def test_printed_sql_makes_the_same_schema(empty_database_url: str) -> None:
    """What `alembic upgrade head --sql` prints makes, when executed, exactly what the command itself makes."""
    printed = alembic("-x", f"url={empty_database_url}", "upgrade", "head", "--sql")
    assert await tables(empty_database_url) == {}
    execute_printed(empty_database_url, printed)
    assert await revision_of(empty_database_url) == head_revision()
    made_by_hand = await catalog(empty_database_url)
    settings = Settings(database_url=empty_database_url)
    await downgrade(settings, "base")
    await upgrade(settings)
    assert await catalog(empty_database_url) == made_by_hand


async def test_printed_sql_makes_the_schema_that_was_named(empty_postgres_url: str, postgres_url: str) -> None:
    """With `-x schema=` printed SQL makes everything in that schema and nothing elsewhere."""
    named = ("-x", f"url={empty_postgres_url}", "-x", "schema=Own")
    execute_printed(empty_postgres_url, alembic(*named, "upgrade", "head", "--sql"))
    assert await catalog(empty_postgres_url, "Own") == await catalog(postgres_url)
    assert await catalog(empty_postgres_url) == []
    execute_printed(empty_postgres_url, alembic(*named, "downgrade", f"{head_revision()}:base", "--sql"))
    assert await tables(empty_postgres_url, "Own") == {VERSION_TABLE: [], ARCHIVE: []}


async def test_printed_sql_of_a_downgrade_removes_everything(database_url: str) -> None:
    """Executed, `alembic downgrade head:base --sql` leaves an empty version table and the archived trail."""
    printed = alembic("-x", f"url={database_url}", "downgrade", f"{head_revision()}:base", "--sql")
    execute_printed(database_url, printed)
    assert await tables(database_url) == {VERSION_TABLE: [], ARCHIVE: []}
    assert [line for line in await catalog(database_url) if VERSION_TABLE not in line and ARCHIVE not in line] == []


# Many at once


async def test_many_at_once_migrate_once(empty_database_url: str) -> None:
    """Of five `alembic upgrade head` started together all succeed, and one does the work."""
    started = [start_alembic("-x", f"url={empty_database_url}", "upgrade", "head") for _ in range(5)]
    results = [finish(process) for process in started]
    assert [result.returncode for result in results] == [0] * 5, [result.stderr for result in results]
    assert sum("Running upgrade  -> 0001" in result.stderr for result in results) == 1
    assert await revision_of(empty_database_url) == head_revision()
