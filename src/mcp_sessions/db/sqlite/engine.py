"""Engines for SQLite: the driver, the pragmas, and whether they took.

WAL, ``synchronous=FULL``, foreign keys, ``BEGIN IMMEDIATE`` (a transaction that first reads and then writes could fail
at once, whatever the busy timeout).
"""

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import aiosqlite
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mcp_sessions.settings import Settings

WAL_LIMIT = "wal_autocheckpoint=65536"
"""The pages of WAL (4 KiB each) at which a commit has to copy them into the file itself; see ``checkpoints``."""


def reading_engine(url: URL, settings: Settings) -> AsyncEngine:
    """Return an engine to read from once: no pool, and no transaction that would wait for a writer."""
    return sqlite_engine(url, settings, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def migration_engine(url: URL, settings: Settings) -> AsyncEngine:
    """Return the engine that migrations run on, without a pool."""
    return sqlite_engine(url, settings, poolclass=NullPool)


def pooled_reader(url: URL, settings: Settings, size: int) -> AsyncEngine:
    """Return an engine with a pool, of which every statement is a transaction by itself."""
    return sqlite_engine(
        url,
        settings,
        isolation_level="AUTOCOMMIT",
        pool_size=size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=settings.connect_timeout.total_seconds(),
    )


def sqlite_engine(url: URL, settings: Settings, **options: Any) -> AsyncEngine:
    """Return an engine for SQLite; options go to SQLAlchemy."""
    engine = create_async_engine(url, connect_args=_sqlite_arguments(settings), hide_parameters=True, **options)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect_our_way(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        parameters["async_creator_fn"] = partial(_open_sqlite, settings)

    if options.get("isolation_level") != "AUTOCOMMIT":

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def sqlite_writer(url: URL, settings: Settings) -> Engine:
    """Return the engine of the one writer of SQLite, for a thread of its own."""
    engine = create_engine(
        url.set(drivername="sqlite"),
        connect_args=_sqlite_arguments(settings),
        hide_parameters=True,
        poolclass=NullPool,  # it keeps the connection itself
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # What a statement of many rows needs, to be undone by itself, would go to a temporary file, page by page.
        # And the waiting is done by whoever runs its transactions.
        for pragma in (*_pragmas(settings), "temp_store=MEMORY", "busy_timeout=0"):
            connection.execute(f"PRAGMA {pragma}")
        for name, right in _right_answers(settings).items():
            _require(name, connection.execute(f"PRAGMA {name}").fetchall(), right)

    return engine


def _sqlite_arguments(settings: Settings) -> dict[str, Any]:
    return {
        "timeout": settings.sqlite_busy_timeout.total_seconds(),
        "isolation_level": None,
        "check_same_thread": False,  # hot statements read in the event loop's thread, too; never in two at once
    }


def _pragmas(settings: Settings) -> Sequence[str]:
    # 8 MB of cache, where it needs them: a big batch changes more pages than fit into the usual 2 MB.
    return f"synchronous={settings.sqlite_synchronous}", "foreign_keys=ON", WAL_LIMIT, "cache_size=-8000"


def _right_answers(settings: Settings) -> dict[str, object]:
    """What SQLite has to answer once it was told: it passes over what it cannot do without an error."""
    synchronous = {"NORMAL": 1, "FULL": 2, "EXTRA": 3}[settings.sqlite_synchronous]
    return {"journal_mode": "wal", "synchronous": synchronous, "foreign_keys": 1}


def _require(name: str, answer: Iterable[Sequence[object]], right: object) -> None:
    given = next((row[0] for row in answer), None)
    if given == right:
        return
    if name != "journal_mode":
        raise sqlite3.NotSupportedError(f"this build of SQLite answers {name}={given}, and {right} was asked for")
    raise sqlite3.NotSupportedError(
        f"it stays in journal mode {given!r} where WAL is needed, without which reads would wait for writes. That "
        "happens on a network file system, in a folder that cannot be written to, and with a vfs without shared "
        "memory or immutable=1 in the URL: put the file on a local disk, and leave those out"
    )


async def _open_sqlite(settings: Settings, *arguments: Any, **parameters: Any) -> aiosqlite.Connection:
    """Open a connection; where that fails, its thread has ended too, lest it report to a loop that is closed."""
    connection = aiosqlite.connect(*arguments, **parameters)
    thread = connection._thread  # noqa: SLF001 - aiosqlite has no other way to wait for it
    thread.daemon = True  # as SQLAlchemy has it: a connection that nobody closed keeps no process from ending
    try:
        await connection
        try:
            await _prepare_sqlite(connection, settings)
        except BaseException:
            await connection.close()
            raise
    except BaseException:
        thread.join()  # it was told to stop, and waits for nothing more
        raise
    return connection


async def _prepare_sqlite(connection: aiosqlite.Connection, settings: Settings) -> None:
    await _switch_to_wal(connection, settings.sqlite_busy_timeout.total_seconds())
    for pragma in _pragmas(settings):
        await connection.execute_fetchall(f"PRAGMA {pragma}")
    for name, right in _right_answers(settings).items():
        _require(name, await connection.execute_fetchall(f"PRAGMA {name}"), right)


async def _switch_to_wal(connection: aiosqlite.Connection, patience: float) -> None:
    """Ask for WAL mode; where processes meet over a new file, SQLite itself fails at once, without waiting."""
    deadline = time.monotonic() + patience
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)
        else:
            return
