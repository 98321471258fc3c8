"""SQLite's writer thread: what it does first, and how long its work may wait."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from mcp_sessions.db.sqlite.engine import sqlite_writer
from mcp_sessions.db.sqlite.writer import WriterThread
from mcp_sessions.db.urls import parse_url
from mcp_sessions.settings import Settings


@pytest.fixture
async def writer(sqlite_url: str) -> AsyncIterator[WriterThread]:
    """A writer on a fresh file, as the package makes it."""
    settings = Settings(database_url=sqlite_url, sqlite_busy_timeout=timedelta(milliseconds=50))
    writer = WriterThread(sqlite_writer(parse_url(sqlite_url), settings), 0.05, lambda _connection: None)
    yield writer
    await writer.dispose()


async def test_work_whose_time_is_over_looks_once_whether_the_file_is_free(writer: WriterThread) -> None:
    """What waited for this process's own writes alone, until its deadline and beyond, is written all the same."""
    entered, finished = threading.Event(), threading.Event()

    def long_work(_connection: Connection) -> None:
        entered.set()
        finished.wait(10)

    writing = asyncio.create_task(writer.run(long_work))
    await asyncio.to_thread(entered.wait, 10)
    late = asyncio.create_task(writer.fetch("SELECT 1", (), deadline=time.monotonic()))
    await asyncio.sleep(0)
    finished.set()
    await writing
    assert await late == [(1,)]
