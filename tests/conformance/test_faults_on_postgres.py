"""Outages, time limits and changes from outside on Postgres: a fault is a fault, in bounded time, and heals."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from mcp_sessions import DatabaseUnavailableError, Owner, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import ON_POSTGRES, OpenManager, eventually, eventually_in_sql
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows

pytestmark = ON_POSTGRES

Call = Callable[[SessionManager], Coroutine[Any, Any, Any]]

SECOND = timedelta(seconds=1)

CALLS: dict[str, Call] = {
    "create": lambda manager: manager.create_session(),
    "create the same": lambda manager: manager.create_session("kept"),
    "resume": lambda manager: manager.resume_session("kept", Owner()),
    "resume an unknown id": lambda manager: manager.resume_session("unknown", Owner()),
    "valid": lambda manager: manager.is_session_valid("kept"),
    "metadata": lambda manager: manager.get_session_metadata("unknown"),
    "touch": lambda manager: manager.touch_session("kept"),
    "terminate": lambda manager: manager.terminate_session("unknown"),
    "terminate many": lambda manager: manager.terminate_sessions(tenant_id="nobody"),
    "list": lambda manager: manager.list_sessions(),
    "count": lambda manager: manager.get_active_session_count(),
    "cleanup": lambda manager: manager.cleanup_stale_sessions(),
    "handshake": lambda manager: manager.get_handshake(bytes(32)),
}
"""Every call, none of which ends the session "kept"."""

HOT: dict[str, Call] = {name: CALLS[name] for name in ("resume", "valid", "touch", "list")}


async def use(manager: SessionManager) -> None:
    """Have connections for reading and writing in the pools, and the session "kept" in the database."""
    await manager.create_session("kept")
    await together(*(manager.list_sessions() for _ in range(8)))
    await together(*(manager.database.write(slowly(0)) for _ in range(8)))


async def unavailable(call: Coroutine[Any, Any, Any], *, within: float) -> str:
    """Make a call that must fail as a passing fault, in bounded time; return the message."""
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailableError) as caught:
        await asyncio.wait_for(call, within + 20)
    assert time.monotonic() - started < within
    return str(caught.value)


@pytest.mark.parametrize("touch_interval", [timedelta(0), timedelta(minutes=1)], ids=["every use", "interval"])
async def test_a_stopped_server_is_a_fault_and_heals(
    open_manager: OpenManager, postgres_server: PostgresServer, touch_interval: timedelta
) -> None:
    """While the server is down every call is a fault, none a "no"; when it is back, so is the manager."""
    manager = await open_manager(touch_interval=touch_interval)
    await use(manager)
    postgres_server.stop()
    for call in CALLS.values():
        assert "secret" not in await unavailable(call(manager), within=3)
    postgres_server.start()
    assert await manager.resume_session("kept", Owner()) is not None
    assert await manager.create_session()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "create the same"])
async def test_the_first_call_after_a_restart_succeeds(
    open_manager: OpenManager, postgres_server: PostgresServer, name: str
) -> None:
    """Connections that a restart cut are replaced without the caller noticing."""
    manager = await open_manager(touch_interval=timedelta(0))
    await use(manager)
    postgres_server.restart()
    answer = await CALLS[name](manager)
    assert bool(answer) == (name in {"create", "resume", "valid", "touch", "list", "count"})


async def test_many_calls_after_a_crash_succeed(open_manager: OpenManager, postgres_server: PostgresServer) -> None:
    """After a crash and recovery, callers that come all at once are all served."""
    manager = await open_manager(touch_interval=timedelta(0))
    await use(manager)
    postgres_server.kill()
    postgres_server.start()
    answers = await together(*(HOT[name](manager) for name in HOT for _ in range(25)))
    assert all(answers)


async def test_a_frozen_server_is_a_fault_in_bounded_time(
    open_manager: OpenManager, postgres_server: PostgresServer
) -> None:
    """A server that answers nothing is given up after the time limits, and used again once it goes on."""
    manager = await open_manager(connect_timeout=SECOND / 2, statement_timeout=SECOND / 2, touch_interval=timedelta(0))
    await use(manager)
    postgres_server.freeze()
    await together(*(unavailable(CALLS[name](manager), within=6) for name in ("resume", "valid", "create")))
    postgres_server.thaw()
    assert await manager.resume_session("kept", Owner()) is not None


def slowly(seconds: float) -> Callable[[Connection], None]:
    """A unit of work that takes its time in the database."""

    def unit(connection: Connection) -> None:
        connection.execute(text(f"SELECT pg_sleep({seconds})"))

    return unit


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_statement_has_a_time_limit(open_manager: OpenManager, kind: str) -> None:
    """A statement that takes longer than the statement timeout is cancelled by the server."""
    manager = await open_manager(statement_timeout=SECOND / 5)
    run = getattr(manager.database, kind)
    assert "statement timeout" in await unavailable(run(slowly(30)), within=2)
    await run(slowly(0))


async def test_a_wait_for_a_lock_has_a_time_limit(open_manager: OpenManager, rows: Rows) -> None:
    """A row or a table that somebody keeps locked is a passing fault; afterwards all is as before."""
    manager = await open_manager(statement_timeout=SECOND / 5, touch_interval=timedelta(0))
    await use(manager)
    before = await rows.session("kept")
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among(['kept'])} FOR UPDATE"):
        for call in (
            manager.resume_session("kept", Owner()),
            manager.terminate_session("kept"),
            manager.clear_all_sessions(),
        ):
            await unavailable(call, within=2)
        assert await manager.is_session_valid("kept")
    async with rows.transaction("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE"):
        for name in ("valid", "create", "list"):
            await unavailable(CALLS[name](manager), within=2)
    assert await rows.session("kept") == before
    assert await manager.touch_session("kept")


@pytest.mark.parametrize("name", [name for name in CALLS if name != "create the same"])
async def test_killed_connections_are_replaced(open_manager: OpenManager, rows: Rows, name: str) -> None:
    """An administrator ends every connection of the manager; the next call does not notice."""
    manager = await open_manager(touch_interval=timedelta(0))
    await use(manager)
    killed = await rows.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'mcp-sessions' AND datname = current_database()"
    )
    assert len(killed) >= 2
    await CALLS[name](manager)


async def test_a_connection_killed_amid_a_write_is_a_fault(open_manager: OpenManager, rows: Rows) -> None:
    """A write whose connection is cut is no "no": nobody knows whether it took effect, and it is not repeated."""
    manager = await open_manager()
    started = 0

    def unit(connection: Connection) -> None:
        nonlocal started
        started += 1
        connection.execute(text("SELECT pg_sleep(30)"))

    task = asyncio.ensure_future(manager.database.write(unit))
    victims = (
        "FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid() "
        "AND datname = current_database()"
    )

    async def is_running() -> bool:
        return bool(await rows.value(f"SELECT count(*) AS n {victims}"))

    await eventually_in_sql(is_running, "the write")
    await rows.fetch(f"SELECT pg_terminate_backend(pid) {victims}")
    await unavailable(task, within=3)  # type: ignore[arg-type]  # a task is awaited like a coroutine
    assert started == 1


VIEWS = "active_sessions, session_history, tenant_activity, audit_sessions"


@pytest.mark.parametrize(
    "change",
    [
        f"DROP VIEW {VIEWS}; ALTER TABLE sessions ALTER COLUMN tenant_id TYPE varchar(600)",
        "ALTER TABLE sessions ADD COLUMN extra text",
        "ALTER TABLE sessions ALTER COLUMN session_digest SET STATISTICS 500",
        "ALTER TABLE sessions DROP COLUMN cleanup_at CASCADE; ALTER TABLE sessions ADD COLUMN cleanup_at timestamptz",
    ],
)
async def test_a_change_of_the_schema_by_another_process(open_manager: OpenManager, rows: Rows, change: str) -> None:
    """Statements that were prepared before a table changed are prepared anew; no caller notices."""
    manager = await open_manager(touch_interval=timedelta(0))
    await use(manager)
    for _ in range(8):  # on every connection, as often as it takes to be kept as a prepared statement
        await together(*(call(manager) for call in HOT.values()), manager.create_session())
    for statement in change.split("; "):
        await rows.execute(statement)
    await rows.execute("UPDATE sessions SET cleanup_at = expires_at")
    for _ in range(3):
        assert all(await together(*(call(manager) for call in HOT.values()), manager.create_session()))


async def test_an_exhausted_pool_is_a_fault_in_bounded_time(open_manager: OpenManager) -> None:
    """Who gets no connection within the connect timeout is told so; the calls of every request go on meanwhile."""
    manager = await open_manager(pool_size=9, connect_timeout=SECOND / 5, touch_interval=timedelta(0))
    await use_once(manager)
    session_id = await manager.create_session()
    assert await manager.touch_session(session_id)
    assert await manager.is_session_valid(session_id)
    assert await manager.get_handshake(digest_of(session_id)) is None
    assert not await manager.terminate_session("unknown")
    busy = asyncio.ensure_future(manager.database.read(slowly(1)))
    await eventually(lambda: manager.database.connections_in_use == 1, "the last connection to be out")
    await unavailable(manager.list_sessions(), within=1)
    assert await manager.touch_session(session_id)
    assert await manager.is_session_valid(session_id)
    await busy
    assert len(await manager.list_sessions()) == 2


@pytest.mark.slow
async def test_closing_during_an_outage_ends(open_manager: OpenManager, postgres_server: PostgresServer) -> None:
    """A manager can be closed while the server is down or frozen, in bounded time; closing is left to the fixture."""
    for halt, mend in (
        (postgres_server.freeze, postgres_server.thaw),
        (postgres_server.stop, postgres_server.start),
    ):
        manager = await open_manager(connect_timeout=SECOND / 2, statement_timeout=SECOND / 2)
        await use_once(manager)
        halt()
        await asyncio.wait_for(manager._close(), 10)
        mend()


async def use_once(manager: SessionManager) -> None:
    """Have a connection of each kind in the pools."""
    await manager.create_session()
    await manager.list_sessions()
