"""The table ``sessions``, as this package's migrations create it, filled without this package's help.

The raw drivers and SQLAlchemy work on the same table as this package, with the same indexes.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from benchmarks.contenders.base import IDLE_SECONDS, TOUCH_INTERVAL_SECONDS, Operation, SessionContender
from benchmarks.population import client, known_client

_WINDOW = timedelta(seconds=IDLE_SECONDS + TOUCH_INTERVAL_SECONDS)
_COLUMNS = (
    "session_digest", "tenant_id", "client_id", "issuer", "subject",
    "created_at", "last_activity_at", "expires_at", "cleanup_at",
)  # fmt: skip

# Built anew at the end: millions of rows would take hours otherwise.
_INDEXES_POSTGRES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid IN ('sessions'::regclass, 'session_events'::regclass)
    AND indexrelid NOT IN (SELECT conindid FROM pg_constraint)
"""
_INDEXES_SQLITE = """
    SELECT name, sql FROM sqlite_master
    WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('sessions', 'session_events')
"""
_SPREAD_POSTGRES = f"""
    WITH aged AS (SELECT session_digest, now() - random() * interval '{TOUCH_INTERVAL_SECONDS} seconds' AS activity
                  FROM unnest($2::bytea[]) AS used(session_digest))
    UPDATE sessions SET last_activity_at = activity, expires_at = activity + $1, cleanup_at = activity + $1
    FROM aged WHERE aged.session_digest = sessions.session_digest
"""
_SPREAD_SQLITE = f"""
    UPDATE sessions SET last_activity_at = strftime('%Y-%m-%d %H:%M:%f', 'now',
        printf('-%.3f seconds', abs(random()) % 1000 / 1000.0 * {TOUCH_INTERVAL_SECONDS}))
    WHERE session_digest = ?
"""


class TableUser(SessionContender):
    """Whoever works on this table."""

    async def fill(self, count: int) -> None:
        await fill(self.url, count)

    async def prepare(self, operation: str, numbers: Sequence[int]) -> None:
        if operation == Operation.RESUME:
            await spread_activity(self.url, numbers)


async def fill(url: str, count: int) -> None:
    """Insert the sessions of the first ``count`` clients, just used, and leave the table vacuumed and analysed."""
    if url.startswith("sqlite"):
        _fill_sqlite(url.removeprefix("sqlite:///"), count)
        return
    connection = await asyncpg.connect(url)
    try:
        indexes = await connection.fetch(_INDEXES_POSTGRES)
        for name, _ in indexes:
            await connection.execute(f"DROP INDEX {name}")
        await connection.copy_records_to_table("sessions", records=_rows(count), columns=_COLUMNS)
        for _, definition in indexes:
            await connection.execute(definition)
        await connection.execute("VACUUM ANALYZE sessions, session_events")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _fill_sqlite(file: str, count: int) -> None:
    connection = sqlite3.connect(file)
    names, marks = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
    rows = (tuple(_text(value) for value in row) for row in _rows(count))
    try:
        connection.execute("PRAGMA cache_size=-1000000")
        with connection:
            connection.execute(f"CREATE TEMP TABLE given ({names})")
            connection.executemany(f"INSERT INTO given VALUES ({marks})", rows)
            indexes = connection.execute(_INDEXES_SQLITE).fetchall()
            for name, _ in indexes:
                connection.execute(f"DROP INDEX {name}")
            connection.execute(f"INSERT INTO sessions ({names}) SELECT * FROM given ORDER BY session_digest")
            for _, definition in indexes:
                connection.execute(definition)
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


async def spread_activity(url: str, numbers: Iterable[int]) -> None:
    """Spread the last activity of these clients' sessions over the touch interval, as where sessions are in use.

    None of them is due for its next touch yet.
    """
    digests = [known_client(number).digest for number in numbers]
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
        try:
            with connection:
                connection.executemany(_SPREAD_SQLITE, ((digest,) for digest in digests))
            connection.execute("PRAGMA wal_checkpoint(RESTART)")  # its size stays what the contender made it
        finally:
            connection.close()
        return
    server = await asyncpg.connect(url)
    try:
        await server.execute(_SPREAD_POSTGRES, _WINDOW, digests)
        await server.execute("VACUUM sessions")
    finally:
        await server.close()


async def stop_trail(url: str) -> None:
    """Drop the triggers that record what happens to sessions."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
        try:
            with connection:
                for trigger in ("sessions_created", "sessions_deleted"):
                    connection.execute(f"DROP TRIGGER {trigger}")
        finally:
            connection.close()
        return
    server = await asyncpg.connect(url)
    try:
        for trigger in ("sessions_created", "sessions_deleted"):
            await server.execute(f"DROP TRIGGER {trigger} ON sessions")
    finally:
        await server.close()


def _rows(count: int) -> Iterator[tuple[object, ...]]:
    used = datetime.now(UTC)
    expires = used + timedelta(seconds=IDLE_SECONDS)  # no later than a use may make it, which then only moves it on
    for number in range(count):
        one = client(number)
        yield one.digest, *one.parts, used, used, expires, expires


def _text(value: object) -> object:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if isinstance(value, datetime) else value
