"""SQLite: what every connection is set to, and what a file that somebody else has locked means."""

import asyncio
import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from mcp_sessions import DatabaseUnavailableError, Owner, SessionManager
from tests.support.concurrency import together
from tests.support.managers import ON_SQLITE, OpenManager
from tests.support.rows import Rows

pytestmark = ON_SQLITE


async def pragmas(manager: SessionManager, kind: str) -> dict[str, object]:
    """The settings of a connection that reads or writes, as SQLite tells them."""

    def unit(connection: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}

    return await (manager.database.read(unit) if kind == "read" else manager.database.write(unit))


@pytest.mark.parametrize(("kind", "busy_timeout"), [("read", 5000), ("write", 0)])
async def test_every_connection_is_set_up(manager: SessionManager, kind: str, busy_timeout: int) -> None:
    """Write-ahead log, full synchronisation, foreign keys, and a wait for other processes, which the writer does."""
    assert await pragmas(manager, kind) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": busy_timeout,
    }


async def test_the_settings_reach_every_connection(open_manager: OpenManager) -> None:
    """Synchronisation and busy timeout are the operator's choice."""
    manager = await open_manager(sqlite_synchronous="NORMAL", sqlite_busy_timeout=timedelta(milliseconds=1500))
    reading, writing = [await pragmas(manager, kind) for kind in ("read", "write")]
    assert (reading["synchronous"], reading["busy_timeout"], writing["synchronous"]) == (1, 1500, 1)


async def test_a_write_takes_the_lock_at_its_beginning(manager: SessionManager, rows: Rows) -> None:
    """A unit of work that first reads and then writes cannot fail in the middle: it begins as a writer."""

    def unit(connection: Connection) -> None:
        connection.execute(text("SELECT 1 FROM sessions"))
        with (
            closing(sqlite3.connect(rows.url.removeprefix("sqlite:///"), timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("BEGIN IMMEDIATE")

    await manager.database.write(unit)


async def test_a_locked_file_is_a_fault_in_bounded_time(open_manager: OpenManager, rows: Rows) -> None:
    """While another process holds the write lock for longer than the busy timeout, writes are faults, reads are not."""
    manager = await open_manager(sqlite_busy_timeout=timedelta(milliseconds=100), touch_interval=timedelta(0))
    await manager.create_session("kept", tenant_id="acme")
    before = await rows.session("kept")
    async with rows.transaction("DELETE FROM sessions WHERE false"):
        for call in (
            manager.create_session("new"),
            manager.resume_session("kept", Owner("acme")),
            manager.touch_session("kept"),
            manager.terminate_session("kept"),
            manager.terminate_sessions(tenant_id="acme"),
            manager.cleanup_stale_sessions(),
            manager.clear_all_sessions(),
        ):
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailableError, match="locked"):
                await call
            assert 0.1 <= time.monotonic() - started < 2
        assert await manager.is_session_valid("kept")
        assert await manager.get_active_session_count() == 1
    assert await rows.session("kept") == before
    assert await manager.resume_session("kept", Owner("acme")) is not None
    assert not await manager.is_session_valid("new")


async def test_many_kinds_of_calls_wait_no_longer_than_one(open_manager: OpenManager, rows: Rows) -> None:
    """Behind one locked file each call fails once its own patience is over, however many stand before it."""
    manager = await open_manager(sqlite_busy_timeout=timedelta(milliseconds=300), touch_interval=timedelta(0))
    await manager.create_session("kept", tenant_id="acme")
    async with rows.transaction("DELETE FROM sessions WHERE false"):
        started = time.monotonic()
        outcomes = await asyncio.gather(
            manager.create_session("new"),
            manager.touch_session("kept"),
            manager.terminate_session("kept"),
            manager.terminate_sessions(tenant_id="acme"),
            manager.clear_all_sessions(),
            return_exceptions=True,
        )
        took = time.monotonic() - started
    assert [type(each) for each in outcomes] == [DatabaseUnavailableError] * 5
    assert 0.3 <= took < 0.9


async def test_a_short_lock_is_waited_for(manager: SessionManager, rows: Rows) -> None:
    """Within the busy timeout a write waits for the other process, and succeeds."""
    async with rows.transaction("DELETE FROM sessions WHERE false"):
        waiting = together(manager.create_session("a"), manager.create_session("b"))
        assert not await manager.is_session_valid("a")
    assert await waiting == ["a", "b"]


async def test_a_process_that_hardly_pauses_keeps_nobody_from_writing(open_manager: OpenManager, rows: Rows) -> None:
    """Between two transactions of a busy process another one gets its turn, however short that moment is."""
    manager = await open_manager(sqlite_busy_timeout=timedelta(milliseconds=400))
    finished = threading.Event()

    def write_without_end() -> None:
        with closing(sqlite3.connect(rows.url.removeprefix("sqlite:///"), isolation_level=None)) as busy:
            while not finished.is_set():
                busy.execute("BEGIN IMMEDIATE")
                time.sleep(0.045)
                busy.execute("COMMIT")
                time.sleep(0.005)

    busy_process = asyncio.create_task(asyncio.to_thread(write_without_end))
    try:
        for _ in range(10):
            await asyncio.sleep(0.01)  # or all would come in one and the same pause
            await manager.create_session()
    finally:
        finished.set()
        await busy_process


async def test_readers_and_the_writer_do_not_wait_for_each_other(manager: SessionManager, rows: Rows) -> None:
    """A reader with a transaction open in another process keeps nobody from writing."""
    with closing(sqlite3.connect(rows.url.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sessions").fetchall()
        session_id = await manager.create_session()
        assert await manager.is_session_valid(session_id)


async def test_times_are_read_by_sqlites_own_functions(manager: SessionManager, rows: Rows) -> None:
    """Timestamps are text in UTC that sorts and that SQLite's date functions read, with milliseconds."""
    await manager.create_session()
    (row,) = await rows.fetch(
        "SELECT created_at, strftime('%Y-%m-%d %H:%M:%f', created_at) AS same, "
        "abs(julianday('now') - julianday(created_at)) * 86400 AS age FROM sessions"
    )
    assert row["created_at"] == row["same"]
    assert row["age"] < 60
