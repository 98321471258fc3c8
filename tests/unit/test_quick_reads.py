"""Reads of SQLite stay in the event loop's thread only as long as they are quick."""

import asyncio
import threading
from pathlib import Path

import aiosqlite
import pytest

from mcp_sessions.db.sqlite import quick_reads
from mcp_sessions.db.sqlite.quick_reads import QuickReads

SELECT = """
    WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ?)
    SELECT thread(), count(*) FROM counted
"""
QUICK, SLOW = [1], [100_000]


@pytest.mark.slow
async def test_slow_reads_move_to_the_thread_of_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick reads are done at once; after a few slow ones the connection's own thread reads, for a while."""
    monkeypatch.setattr(quick_reads, "_AWAY_SECONDS", 2.0)
    async with aiosqlite.connect(tmp_path / "a.db", check_same_thread=False) as connection:
        await connection.create_function("thread", 0, threading.get_ident)
        reads = QuickReads(connection, SELECT)

        async def is_read_here(arguments: list[int]) -> bool:
            ((thread, counted),) = await reads.fetch(arguments)
            assert counted == arguments[0]
            return bool(thread == threading.get_ident())

        assert all([await is_read_here(QUICK) for _ in range(10)])
        assert await is_read_here(SLOW)
        for _ in range(100):
            if not await is_read_here(SLOW):
                break
        assert not await is_read_here(QUICK)
        async with asyncio.timeout(20):
            while not await is_read_here(QUICK):  # noqa: ASYNC110 - nothing but time brings it back
                await asyncio.sleep(0.01)
