"""The fixtures that hand out databases: fresh, migrated or empty, one for each test."""

import signal
import sqlite3
import subprocess

import asyncpg
import pytest

from mcp_sessions.db.schema.revisions import current_revision, head_revision
from mcp_sessions.settings import Settings


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_a_database_is_migrated_and_fresh(database_url: str, turn: str) -> None:
    """Each test finds the newest schema, and nothing that an earlier test left in the database."""
    assert await current_revision(Settings(database_url=database_url)) == head_revision()
    await execute(database_url, f"CREATE TABLE left_behind AS SELECT '{turn}' AS turn")


async def test_an_empty_database_has_no_schema(empty_database_url: str) -> None:
    """An empty database was never migrated."""
    assert await current_revision(Settings(database_url=empty_database_url)) is None


async def test_pgbouncer_leads_to_the_same_database(pgbouncer_url: str, postgres_url: str) -> None:
    """What is written by way of PgBouncer stands in the database of `postgres_url`."""
    await execute(pgbouncer_url, "CREATE TABLE written AS SELECT 1 AS number")
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT number FROM written") == 1
    await connection.close(timeout=5)


async def execute(url: str, statement: str) -> None:
    """Execute a statement with the plain driver of a URL's engine."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute(statement)
        connection.close()
    else:
        server = await asyncpg.connect(url, statement_cache_size=0)
        await server.execute(statement)
        await server.close(timeout=5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_processes_end_at_a_signal_that_a_background_shell_ignores(number: signal.Signals) -> None:
    """What the tests start does not inherit that the tests themselves were started in the background."""
    with subprocess.Popen(["sleep", "30"]) as process:
        process.send_signal(number)
        assert process.wait(timeout=20) == -number
