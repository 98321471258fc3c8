"""One database, two engines: pragmas, pools, timeouts, transactions, and faults told apart from answers.

A unit of work is a synchronous function of a connection. ``Database.read`` runs it without a transaction;
``Database.write`` runs it in one (``BEGIN IMMEDIATE`` on SQLite, where a transaction that first reads and then writes
could fail at once). A unit of work runs to its end even where its caller is cancelled: nobody leaves a connection or
an open transaction behind.

SQLite has one writer: writes share one connection, so that the callers of one process never meet in SQLite's busy
handler; reads have connections of their own and, in WAL mode, wait for nobody.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import aiosqlite
import asyncpg
from sqlalchemy import URL, Connection, Select, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mcp_sessions.db.faults import FAULTS, is_lost_connection, is_rolled_back, translated
from mcp_sessions.db.lane import Lane, Rows
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.errors import ManagerClosedError
from mcp_sessions.settings import Settings

T = TypeVar("T")


class Database:
    """The database of one process: runs units of work, reports faults as ``DatabaseError``, never as a "no"."""

    def __init__(self, settings: Settings) -> None:
        url = parse_url(settings.database_url)
        self.shown_url = shown(url)
        self.dialect = url.get_backend_name()
        single_writer = self.dialect == "sqlite"
        readers = settings.pool_size - 1 if single_writer else settings.pool_size // 2
        writers = settings.pool_size - readers
        self._reader = _pooled_engine(url, settings, readers, autocommit=not settings.pgbouncer)
        self._writer = _pooled_engine(url, settings, writers, autocommit=False)
        self._lanes: dict[Callable[[str], Select[Any]], Lane] = {}
        self._in_lane_transactions = settings.pgbouncer
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work that only reads; a lost connection is tried again once, on a new one."""
        self._require_open()
        return await self._finished(self._attempts(self._reader, unit, repeatable=True))

    async def write(
        self, unit: Callable[[Connection], T], *, repeatable: bool = False, single_statement: bool = False
    ) -> T:
        """Run a unit of work in one transaction and commit it.

        ``repeatable``: running it twice is as good as once, so it may be tried again when the connection was lost
        and nobody knows whether it was committed. ``single_statement``: it is a transaction by itself, which saves
        Postgres two round trips.
        """
        self._require_open()
        autocommit = single_statement and repeatable and self.dialect == "postgresql"
        engine = self._reader if autocommit else self._writer
        return await self._finished(self._attempts(engine, unit, repeatable=repeatable))

    async def fetch(self, statement: Callable[[str], Select[Any]], parameters: Mapping[str, Any]) -> Rows:
        """Run a hot statement that only reads on the lane kept for it, and return the driver's own rows.

        ``statement`` makes it for a dialect. One caller at a time, who is never cancelled: a ``Batcher``'s run.
        """
        self._require_open()
        lane = self._lanes.get(statement)
        if lane is None:
            lane = self._lanes[statement] = Lane(self._reader, statement, in_transaction=self._in_lane_transactions)
        try:
            return await lane.fetch(parameters)
        except FAULTS as fault:
            raise translated(fault, self.shown_url) from fault

    @property
    def connections_in_use(self) -> int:
        """How many connections are out of their pools right now."""
        return sum(engine.pool.checkedout() for engine in (self._reader, self._writer))  # type: ignore[attr-defined]

    async def close(self) -> None:
        """Wait for the units of work that are running, then close every connection; idempotent."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running)
        for lane in self._lanes.values():
            await lane.close()
        await self._reader.dispose()
        await self._writer.dispose()

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _require_open(self) -> None:
        if self._closed:
            raise ManagerClosedError("the database was closed; use the manager inside its 'async with'")

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a cancelled caller does not ask for it any more

    async def _attempts(self, engine: AsyncEngine, unit: Callable[[Connection], T], *, repeatable: bool) -> T:
        try:
            return await _attempt(engine, unit)
        except FAULTS as fault:
            if not (is_rolled_back(fault) or (repeatable and is_lost_connection(fault))):
                raise translated(fault, self.shown_url) from fault
        try:
            return await _attempt(engine, unit)
        except FAULTS as fault:
            raise translated(fault, self.shown_url) from fault


async def _attempt(engine: AsyncEngine, unit: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(unit)


def migration_engine(settings: Settings) -> AsyncEngine:
    """Return the engine that migrations run on: no pool, no bound on a statement's time."""
    return _engine(parse_url(settings.database_url), settings, bounded_statements=False, poolclass=NullPool)


def reading_engine(settings: Settings) -> AsyncEngine:
    """Return an engine to read from once: no pool, and no transaction that would wait for a writer of SQLite."""
    url = parse_url(settings.database_url)
    options = {} if settings.pgbouncer else {"isolation_level": "AUTOCOMMIT"}
    return _engine(url, settings, bounded_statements=True, poolclass=NullPool, **options)


def _pooled_engine(url: URL, settings: Settings, size: int, *, autocommit: bool) -> AsyncEngine:
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if autocommit else {"pool_pre_ping": True}
    return _engine(
        url,
        settings,
        bounded_statements=True,
        pool_size=size,
        max_overflow=0,
        pool_timeout=settings.connect_timeout.total_seconds(),
        **options,
    )


def _engine(url: URL, settings: Settings, *, bounded_statements: bool, **options: Any) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, settings, **options)
    return _postgres_engine(url, settings, bounded_statements=bounded_statements, **options)


def _sqlite_engine(url: URL, settings: Settings, **options: Any) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={"timeout": settings.sqlite_busy_timeout.total_seconds(), "isolation_level": None},
        hide_parameters=True,
        **options,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.run_async(lambda connection: _prepare_sqlite(connection, settings))

    if options.get("isolation_level") != "AUTOCOMMIT":

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


async def _prepare_sqlite(connection: aiosqlite.Connection, settings: Settings) -> None:
    await _switch_to_wal(connection, settings.sqlite_busy_timeout.total_seconds())
    for pragma in (f"synchronous={settings.sqlite_synchronous}", "foreign_keys=ON"):
        await connection.execute_fetchall(f"PRAGMA {pragma}")
    # SQLite has unhex() from 3.41 on; ours takes its place wherever Python brings an older one.
    await connection.create_function("unhex", 1, bytes.fromhex, deterministic=True)


async def _switch_to_wal(connection: aiosqlite.Connection, patience: float) -> None:
    """Have the file in WAL mode; where processes meet over a new file, SQLite itself fails at once, without waiting."""
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


def _postgres_engine(url: URL, settings: Settings, *, bounded_statements: bool, **options: Any) -> AsyncEngine:
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    arguments: dict[str, Any] = {"timeout": settings.connect_timeout.total_seconds()}
    server_settings = {"application_name": "mcp-sessions"}
    if settings.pgbouncer:
        # In transaction mode the next statement may meet another server connection: nothing may be remembered on
        # one, and only start-up parameters that PgBouncer knows may be sent.
        arguments["statement_cache_size"] = 0
    if bounded_statements:
        seconds = settings.statement_timeout.total_seconds()
        arguments["command_timeout"] = seconds + 1  # the server's own timeout comes first, and says more
        if not settings.pgbouncer:
            server_settings["statement_timeout"] = f"{int(seconds * 1000)}ms"
            server_settings["idle_in_transaction_session_timeout"] = f"{int(seconds * 1000)}ms"

    # asyncpg reads the URL itself: it knows what libpq knows (sslmode, several hosts, a password file).
    async def connect(**dialect_arguments: Any) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(dsn, server_settings=server_settings, **arguments, **dialect_arguments)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        connect_args=_UNNAMED_STATEMENTS if settings.pgbouncer else {},
        hide_parameters=True,
        **options,
    )
    if settings.database_schema:
        engine = engine.execution_options(schema_translate_map={None: settings.database_schema})
    return engine


_UNNAMED_STATEMENTS = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
