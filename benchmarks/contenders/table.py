"""The table ``sessions``, as this package's migrations create it, filled without this package's help.

The raw drivers and SQLAlchemy work on the same table as this package, with the same indexes.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg

from benchmarks.contenders.base import IDLE_SECONDS, TOUCH_INTERVAL_SECONDS
from benchmarks.population import client

_WINDOW = timedelta(seconds=IDLE_SECONDS + TOUCH_INTERVAL_SECONDS)
_COLUMNS = (
    "session_digest", "tenant_id", "client_id", "issuer", "subject",
    "created_at", "last_activity_at", "expires_at", "cleanup_at",
)  # fmt: skip

_SPREAD_POSTGRES = f"""
    WITH aged AS (SELECT session_digest, now() - random() * interval '{TOUCH_INTERVAL_SECONDS} seconds' AS activity
                  FROM sessions)
    UPDATE sessions SET last_activity_at = activity, expires_at = activity + $1, cleanup_at = activity + $1
    FROM aged WHERE aged.session_digest = sessions.session_digest
"""
_SPREAD_SQLITE = f"""
    UPDATE sessions SET last_activity_at = strftime('%Y-%m-%d %H:%M:%f', 'now',
        printf('-%.3f seconds', abs(random()) % 1000 / 1000.0 * {TOUCH_INTERVAL_SECONDS}))
"""


async def fill(url: str, count: int) -> None:
    """Insert the sessions of the first ``count`` clients, just used, and leave the table vacuumed and analysed."""
    if url.startswith("sqlite"):
        _fill_sqlite(url.removeprefix("sqlite:///"), count)
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.copy_records_to_table("sessions", records=_rows(count), columns=_COLUMNS)
        await connection.execute("VACUUM ANALYZE sessions")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _fill_sqlite(file: str, count: int) -> None:
    connection = sqlite3.connect(file)
    marks = ", ".join("?" * len(_COLUMNS))
    rows = (tuple(_text(value) for value in row) for row in _rows(count))
    try:
        with connection:
            connection.executemany(f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({marks})", rows)
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


async def spread_activity(url: str) -> None:
    """Spread the last activity over the touch interval, as it is where sessions are in use; nobody is due yet."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
        try:
            with connection:
                connection.execute(_SPREAD_SQLITE)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        return
    server = await asyncpg.connect(url)
    try:
        await server.execute(_SPREAD_POSTGRES, _WINDOW)
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
    expires = used + _WINDOW
    for number in range(count):
        one = client(number)
        yield one.digest, *one.parts, used, used, expires, expires


def _text(value: object) -> object:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if isinstance(value, datetime) else value
