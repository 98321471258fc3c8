"""Postgres: its engine, its pools, and the prepared statements on connections kept for them.

Every wait is bounded: for a connection, for a statement, for an idle transaction. Hot statements have connections of
their own, so that no other work keeps a request waiting for one; the rest of the pool half reads and half writes.
"""

import configparser
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mcp_sessions.db.auditor_views import through_views
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.faults import is_forbidden
from mcp_sessions.db.hot_statements import Prepare, Prepared, Rows
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.db.wake_ups import PostgresWakeUps, WakeUps
from mcp_sessions.errors import ConfigurationError, DatabaseError
from mcp_sessions.settings import Settings

T = TypeVar("T")

_LOCK_TIMEOUT = timedelta(milliseconds=100)
"""How long a transaction waits for a row that another one has locked, with a connection that others may need."""


class PostgresBackend(Backend):
    """The backend of a Postgres database."""

    dialect = "postgresql"
    reads_are_cancellable = False  # asyncpg answers a cancelled call with a connection of its own, to cancel it

    def __init__(self, url: URL, settings: Settings) -> None:
        patience = settings.connect_timeout + settings.statement_timeout
        super().__init__(shown(url), patience, settings.statement_timeout)
        self._url = url
        self._settings = settings
        self._reads_views = False

    async def give_way(self) -> None:
        """Do nothing: writers wait for each other's rows alone."""

    def wake_ups(self) -> WakeUps:
        """Return the wake-ups by LISTEN and NOTIFY, where a connection can listen."""
        settings = _for_listening(self._settings)
        engine = None if settings is None else partial(reading_engine, parse_url(settings.database_url), settings)
        return PostgresWakeUps(self.read, engine)

    @property
    def connections_in_use(self) -> int:
        """How many connections are out of the pools right now."""
        pools: list[Any] = [self._reader.pool, self._writer.pool]  # not every pool counts, but these do
        return sum(pool.checkedout() for pool in pools)

    @cached_property
    def _hot_engine(self) -> AsyncEngine:
        options = _autocommit(self._settings)
        return postgres_engine(self._url, self._settings, bounded_statements=True, poolclass=NullPool, **options)

    @cached_property
    def _reader(self) -> AsyncEngine:
        return self._pooled(self._others - self._writers, **_autocommit(self._settings))

    @cached_property
    def _views(self) -> AsyncEngine:
        return through_views(self._reader)

    @cached_property
    def _writer(self) -> AsyncEngine:
        return self._pooled(self._writers, lock_timeout=_LOCK_TIMEOUT)

    @property
    def _others(self) -> int:
        """How many connections of the pool hot statements leave to all other work."""
        kept = len(self._statements)
        if self._settings.pool_size < kept + 2:
            raise ConfigurationError(
                f"pool_size must be at least {kept + 2}: the statements of every request keep {kept} connections"
            )
        return self._settings.pool_size - kept

    @property
    def _writers(self) -> int:
        return self._others // 2

    def _pooled(self, size: int, **options: Any) -> AsyncEngine:
        return postgres_engine(
            self._url,
            self._settings,
            bounded_statements=True,
            pool_size=size,
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=self._settings.connect_timeout.total_seconds(),
            **options,
        )

    async def _read(self, unit: Callable[[Connection], T]) -> T:
        """Read the tables, or the auditor's views where they are closed to this role."""
        if not self._reads_views:
            try:
                return await self._twice(partial(_run, self._reader, unit), repeatable=True)
            except DatabaseError as fault:
                if not is_forbidden(fault.__cause__):
                    raise
        result = await self._twice(partial(_run, self._views, unit), repeatable=True)
        self._reads_views = True
        return result

    async def _write(self, unit: Callable[[Connection], T]) -> T:
        return await _run(self._writer, partial(_with_lock_timeout, unit) if self._settings.pgbouncer else unit)

    def _preparer(self, *, writes: bool, lock_timeout: timedelta | None) -> Prepare:  # noqa: ARG002 - all are alike
        async def prepare(text: str) -> Prepared:
            connection = await self._hot_engine.connect()
            try:
                kind = _InTransactions if self._settings.pgbouncer else _OnItsOwn
                return await kind.on(connection, text, lock_timeout)
            except BaseException:
                await _discarded(connection)
                raise

        return prepare

    async def _dispose(self) -> None:
        for engine in (self._hot_engine, self._reader, self._writer):
            await engine.dispose()


class _OnItsOwn:
    """A prepared statement of asyncpg on a connection kept for it."""

    def __init__(self, connection: AsyncConnection, driver: Any, text: str) -> None:
        self._connection = connection
        self._driver = driver
        self._text = text

    @classmethod
    async def on(cls, connection: AsyncConnection, text: str, lock_timeout: timedelta | None) -> "_OnItsOwn":
        """Prepare a connection for it."""
        driver: Any = (await connection.get_raw_connection()).driver_connection
        # The best plan is the same for one digest and for many: to plan each run costs more than to run it.
        await driver.execute("SET plan_cache_mode TO force_generic_plan")
        if lock_timeout is not None:
            await driver.execute(f"SET {_limit(lock_timeout)}")
        return cls(connection, driver, text)

    async def run(self, arguments: Sequence[Any]) -> Rows:
        """Run it."""
        rows: Rows = await self._driver.fetch(self._text, *arguments)
        return rows

    async def discard(self) -> None:
        """Invalidate the connection: the next call gets another one."""
        await _discarded(self._connection)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


class _InTransactions(_OnItsOwn):
    """The same between BEGIN and COMMIT.

    A transaction-mode PgBouncer keeps one server connection for the steps of a statement only within a transaction.
    """

    _first = ""

    @classmethod
    async def on(cls, connection: AsyncConnection, text: str, lock_timeout: timedelta | None) -> "_InTransactions":
        """Set nothing on the connection: the server's may be another one for each transaction."""
        driver: Any = (await connection.get_raw_connection()).driver_connection
        prepared = cls(connection, driver, text)
        if lock_timeout is not None:
            prepared._first = f"SET LOCAL {_limit(lock_timeout)}"
        return prepared

    async def run(self, arguments: Sequence[Any]) -> Rows:
        """Run it in a transaction."""
        async with self._driver.transaction():
            if self._first:
                await self._driver.execute(self._first)
            return await super().run(arguments)


def reading_engine(url: URL, settings: Settings) -> AsyncEngine:
    """Return an engine to read from once, without a pool."""
    return postgres_engine(url, settings, bounded_statements=True, poolclass=NullPool, **_autocommit(settings))


def migration_engine(url: URL, settings: Settings) -> AsyncEngine:
    """Return the engine that migrations run on: no pool, no bound on a statement's time."""
    return postgres_engine(url, settings, bounded_statements=False, poolclass=NullPool)


def postgres_engine(
    url: URL, settings: Settings, *, bounded_statements: bool, lock_timeout: timedelta | None = None, **options: Any
) -> AsyncEngine:
    """Return an engine for Postgres; options go to SQLAlchemy."""
    dsn, arguments = _dsn_and_login(url)
    arguments["timeout"] = settings.connect_timeout.total_seconds()
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
    if lock_timeout is not None and not settings.pgbouncer:
        server_settings["lock_timeout"] = f"{int(lock_timeout.total_seconds() * 1000)}ms"

    # asyncpg reads the URL itself: it knows what libpq knows (sslmode, several hosts, a password file).
    async def connect(**dialect_arguments: Any) -> "asyncpg.Connection[asyncpg.Record]":
        try:
            return await asyncpg.connect(dsn, server_settings=server_settings, **arguments, **dialect_arguments)
        except configparser.Error:  # it shows the line, which may have a password
            raise asyncpg.InterfaceError("the connection service file cannot be read") from None
        except (ValueError, OverflowError) as error:  # how asyncpg and the socket below tell of a mistyped URL
            raise asyncpg.InterfaceError(str(error)) from error

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


def _dsn_and_login(url: URL) -> tuple[str, dict[str, Any]]:
    """Return the URL without user and password, and these: what the driver says of a URL may show all of it."""
    query = dict(url.query)
    user, password = query.pop("user", None), query.pop("password", None)
    dsn = URL.create("postgresql", host=url.host, port=url.port, database=url.database, query=query)
    return dsn.render_as_string(), {"user": url.username or user, "password": url.password or password}


_UNNAMED_STATEMENTS = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}


def _autocommit(settings: Settings) -> dict[str, Any]:
    """Make every statement a transaction by itself, but where a PgBouncer would part its steps."""
    return {} if settings.pgbouncer else {"isolation_level": "AUTOCOMMIT"}


def _for_listening(settings: Settings) -> Settings | None:
    """Return the settings of a connection that can listen; None where there is none."""
    if settings.listen_url is not None:
        return settings.model_copy(update={"database_url": settings.listen_url, "pgbouncer": False})
    return None if settings.pgbouncer else settings


def _limit(lock_timeout: timedelta) -> str:
    return f"lock_timeout TO {max(1, int(lock_timeout.total_seconds() * 1000))}"


def _with_lock_timeout(unit: Callable[[Connection], T], connection: Connection) -> T:
    connection.exec_driver_sql(f"SET LOCAL {_limit(_LOCK_TIMEOUT)}")
    return unit(connection)


async def _run(engine: AsyncEngine, unit: Callable[[Connection], T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(unit)


async def _discarded(connection: AsyncConnection) -> None:
    await connection.invalidate()
    await connection.close()
