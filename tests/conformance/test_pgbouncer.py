"""A transaction-mode PgBouncer in front: what differs from a direct connection. The rest runs in the other suites."""

import asyncio
import time
from datetime import timedelta

import pytest

from mcp_sessions import DatabaseError, DatabaseUnavailableError, Owner, SessionManager
from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.pgbouncer import pgbouncer_program, running_pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows

pytestmark = pytest.mark.parametrize("database_url", ["pgbouncer"], indirect=True)


async def test_more_connections_than_the_server_has(open_manager: OpenManager) -> None:
    """Workers with more connections than PgBouncer has to the server take turns, and statements do not mix."""
    managers = [await open_manager(touch_interval=timedelta(0)) for _ in range(4)]
    for _ in range(5):
        ids = await together(*(manager.create_session(tenant_id="acme") for manager in managers for _ in range(5)))
        calls = [manager.resume_session(each, Owner("acme")) for manager in managers for each in ids]
        lists = [manager.list_sessions(limit=3) for manager in managers for _ in range(4)]
        assert all(await together(*calls))
        assert all(await together(*lists))


async def test_a_wait_for_a_lock_has_a_time_limit(open_manager: OpenManager, postgres_url: str) -> None:
    """Though the server is not told a statement timeout, a call that waits too long is a passing fault."""
    manager = await open_manager(statement_timeout=timedelta(milliseconds=100), touch_interval=timedelta(0))
    await manager.create_session("kept")
    rows = Rows(postgres_url)
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among(['kept'])} FOR UPDATE"):
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(manager.terminate_session("kept"), 20)
        assert time.monotonic() - started < 5
    assert await manager.touch_session("kept")


async def test_a_restarted_server_behind_it(open_manager: OpenManager, postgres_server: PostgresServer) -> None:
    """PgBouncer outlives the server: once that is back, so is the manager, by itself."""
    manager = await open_manager(touch_interval=timedelta(0))
    await manager.create_session("kept")
    postgres_server.restart()
    deadline = time.monotonic() + 10
    while True:  # PgBouncer may have to notice first
        try:
            assert await manager.resume_session("kept", Owner()) is not None
            break
        except DatabaseUnavailableError:
            assert time.monotonic() < deadline
    assert await manager.is_session_valid("kept")


async def test_a_forgotten_setting_is_named(database_url: str) -> None:
    """Without the setting for PgBouncer nothing works, and the error is no passing one but names what to set."""
    with pytest.raises(DatabaseError, match=r"startup parameter.* set MCP_SESSIONS_PGBOUNCER=true") as raised:
        await SessionManager.open(database_url).__aenter__()
    assert not isinstance(raised.value, DatabaseUnavailableError)


@pytest.mark.usefixtures("database_url")
async def test_a_forgotten_setting_is_named_where_a_pgbouncer_overlooks_it(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    """A PgBouncer told to ignore parameters mixes up prepared statements: the error names the setting as well."""
    program = pgbouncer_program()
    assert program is not None
    ignored = "statement_timeout, idle_in_transaction_session_timeout"
    with (
        running_pgbouncer(program, postgres_server, ignore_startup_parameters=ignored) as own,
        pytest.raises(DatabaseError, match=r"prepared statement.* set MCP_SESSIONS_PGBOUNCER=true") as raised,
    ):
        await use_from_two_sides(own.url(postgres_database))
    assert not isinstance(raised.value, DatabaseUnavailableError)


async def use_from_two_sides(url: str) -> None:
    """Ask for the same from two managers at once, again and again."""
    async with SessionManager.open(url) as one, SessionManager.open(url) as other:
        for _ in range(20):
            await together(one.list_sessions(), other.list_sessions(), other.get_active_session_count())
