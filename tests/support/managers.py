"""What the tests of managers share: how to open more of them, how to wait, and what none may leave behind."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from mcp_sessions import SessionManager

OpenManager = Callable[..., Awaitable[SessionManager]]
"""Opens one more manager ("worker") on the test's database; settings may be given."""

WITH_PGBOUNCER = pytest.mark.parametrize(
    "database_url", ["sqlite", "postgres", pytest.param("pgbouncer", marks=pytest.mark.slow)], indirect=True
)
"""For a module's ``pytestmark``: on both engines, and on Postgres by way of PgBouncer too."""

ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def eventually(condition: Callable[[], bool], waiting_for: str, *, seconds: float = 10) -> None:
    """Let the event loop go on until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for {waiting_for}"
        await asyncio.sleep(0.005)


async def eventually_in_sql(query: Callable[[], Awaitable[bool]], waiting_for: str, *, seconds: float = 10) -> None:
    """Ask the database until the answer is yes; fail when it is not in time."""
    deadline = time.monotonic() + seconds
    while not await query():
        assert time.monotonic() < deadline, f"still waiting for {waiting_for}"
        await asyncio.sleep(0.01)


async def connections_are_back(manager: SessionManager) -> None:
    """Wait for what cancelled callers left running; then no connection may be out of its pool."""
    await eventually(lambda: manager.database.connections_in_use == 0, "all connections to be back in their pools")


async def no_threads_but(threads: set[threading.Thread]) -> None:
    """Wait for every thread to end but these and those of the event loop's own pool."""

    def left() -> list[threading.Thread]:
        return [each for each in set(threading.enumerate()) - threads if not each.name.startswith("asyncio_")]

    await eventually(lambda: not left(), "the managers' threads to end")
