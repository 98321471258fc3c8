"""The process that tells what a worker asks of its database while nobody asks anything of it.

It opens sessions, waits until all is quiet, and counts for a while: on Postgres the transactions of the database, as
the server itself counts them; on SQLite the statements of every connection of this process, without BEGIN and COMMIT,
and without the upkeep of the file itself, which copies its log aside once it was written to.
"""

import asyncio
import sqlite3
import sqlite3.dbapi2
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from benchmarks.idle import open_sessions
from benchmarks.served import server
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import run_lifespan

_SETTLED_SECONDS = 12  # by then Postgres has counted what it was asked before: see pgstat_report_stat

_NO_QUESTION = ("BEGIN", "COMMIT", "SELECT 1", "PRAGMA wal_checkpoint")

Count = Callable[[], Awaitable[int]]


async def statements_a_second(url: str, sessions: int, seconds: float) -> float:
    """Return how many statements a worker sends that has so many idle sessions and no stream."""
    count = _counted_by_this_process() if url.startswith("sqlite") else _counted_by_postgres(url)
    soon = timedelta(seconds=0.2)
    app = DurableSessions(
        server().streamable_http_app(max_sessions=None), database_url=url, let_go_after=soon, check_interval=soon
    )
    async with run_lifespan(app):
        await open_sessions(app, sessions, let_go=True)
        await asyncio.sleep(_SETTLED_SECONDS)
        before = await count()
        await asyncio.sleep(seconds)
        return (await count() - before) / seconds


def _counted_by_postgres(url: str) -> Count:
    place = urlsplit(url)

    async def count() -> int:
        connection = await asyncpg.connect(place._replace(path="/postgres").geturl())  # which is not counted
        try:
            query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1"
            return int(await connection.fetchval(query, place.path[1:]))
        finally:
            await connection.close()

    return count


def _counted_by_this_process() -> Count:
    sent = 0
    connect = sqlite3.dbapi2.connect

    def note(statement: str) -> None:
        nonlocal sent
        sent += not statement.startswith(_NO_QUESTION)

    def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(note)
        return connection

    for module in (sqlite3, sqlite3.dbapi2):
        module.connect = counted  # type: ignore[attr-defined]

    async def count() -> int:
        return sent

    return count


if __name__ == "__main__":
    _, url, sessions, seconds = sys.argv
    print(asyncio.run(statements_a_second(url, int(sessions), float(seconds))))
