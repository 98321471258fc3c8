"""A transaction-mode PgBouncer in front: what differs from a direct connection. The rest runs in the other suites."""

import asyncio
import time
from datetime import timedelta

import pytest

from mcp_sessions import DatabaseUnavailableError, Owner
from tests.support.concurrency import together
from tests.support.managers import OpenManager
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
