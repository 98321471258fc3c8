"""Managers for the conformance suite, on both engines, each held to leaving nothing behind."""

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.messages.mailbox import Mailbox
from tests.support.mailboxes import OpenMailbox, Received
from tests.support.managers import OpenManager, connections_are_back, no_threads_but
from tests.support.roles import Roles
from tests.support.rows import Rows
from tests.support.trail import Trail


@pytest.fixture
def rows(database_url: str) -> Rows:
    """The rows of the test's database."""
    return Rows(database_url)


@pytest.fixture
def trail(rows: Rows) -> Trail:
    """The audit trail of the test's database."""
    return Trail(rows)


@pytest.fixture
def engine_settings(request: pytest.FixtureRequest, database_url: str) -> dict[str, Any]:
    """The settings that lead to the test's database."""
    by_way_of_pgbouncer = request.node.callspec.params.get("database_url") == "pgbouncer"
    return {"database_url": database_url, "pgbouncer": by_way_of_pgbouncer}


@pytest.fixture
async def open_manager(engine_settings: dict[str, Any]) -> AsyncIterator[OpenManager]:
    """Opens managers, and closes them at the end: none may keep a connection out of its pool, nor a thread."""
    threads = set(threading.enumerate())
    async with AsyncExitStack() as stack:

        async def opened(**settings: Any) -> SessionManager:
            manager = await stack.enter_async_context(SessionManager.open(**(engine_settings | settings)))
            stack.push_async_callback(connections_are_back, manager)
            return manager

        yield opened
    await no_threads_but(threads)


@pytest.fixture
async def manager(open_manager: OpenManager) -> SessionManager:
    """A manager with the default settings."""
    return await open_manager()


@pytest.fixture
async def roles(postgres_url: str) -> AsyncIterator[Roles]:
    """The three roles on the test's Postgres database."""
    roles = Roles(postgres_url)
    try:
        await roles.make()
        yield roles
    finally:
        await roles.drop()


@pytest.fixture
async def open_mailbox(open_manager: OpenManager) -> AsyncIterator[OpenMailbox]:
    """Opens the mailbox of one more worker, which waits for something unless it is told not to."""
    async with AsyncExitStack() as stack:

        async def opened(*, waiting: bool = True, **settings: Any) -> Received:
            manager = await open_manager(**settings)
            received = Received(Mailbox(manager.database, manager.settings))
            await stack.enter_async_context(received.mailbox.opened())
            if waiting:
                stack.enter_context(received.mailbox.waiting())
            return received

        yield opened
