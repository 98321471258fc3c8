"""How Alembic reaches the database: the settings of mcp-sessions, or ``-x url=...`` and ``-x schema=...``.

All migrations of one command run in one transaction, unless one of them asks for an ``autocommit_block``. Of many
commands at once one migrates, and the others then find nothing left to do: ``BEGIN IMMEDIATE`` sees to that on SQLite,
an advisory lock on Postgres. A connection of its own holds that lock, so that it also lasts through an
``autocommit_block``, and through a PgBouncer in transaction mode.
"""

import asyncio
import logging.config
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_sessions.db.engines import migration_engine
from mcp_sessions.db.faults import reported
from mcp_sessions.db.schema.revisions import require_known_revision
from mcp_sessions.db.tables import VERSION_TABLE, metadata
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.errors import ConfigurationError, McpSessionsError
from mcp_sessions.settings import Settings, load_settings

# How long a migration waits for another one, and then for a lock on a table that the application is using. While
# it waits for a table, whoever comes later waits behind it: better to give up soon and to be run again.
SECONDS_FOR_ANOTHER_MIGRATION = 600
LOCK_TIMEOUT = "5s"

# Any constant that no other program is likely to lock.
ADVISORY_LOCK = 0x6D63705F73657373


def settings_of_the_shell() -> Settings:
    """Return the settings of ``alembic`` at the shell."""
    arguments = context.get_x_argument(as_dictionary=True)
    if unknown := arguments.keys() - {"url", "schema"}:
        raise ConfigurationError(f"unknown argument -x {', '.join(sorted(unknown))}; there are -x url= and -x schema=")
    return load_settings(database_url=arguments.get("url"), database_schema=arguments.get("schema"))


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Compare only our own tables: the database may hold others."""
    return kind != "table" or name in metadata.tables


class Run:
    """One run of an Alembic command with these settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = parse_url(settings.database_url)
        self.on_postgres = self.url.get_backend_name() == "postgresql"
        self.schema = settings.database_schema if self.on_postgres else None
        self.options: dict[str, Any] = {
            "target_metadata": metadata,
            "version_table": VERSION_TABLE,
            "version_table_schema": self.schema,
            "include_name": is_ours,
            "transactional_ddl": True,
            "compare_server_default": True,
        }

    def offline(self) -> None:
        """Print the SQL (``--sql``) instead of running it."""
        context.configure(
            dialect_name=self.url.get_backend_name(),
            dialect_opts=NAMED_PARAMETERS,
            literal_binds=True,
            **self.options,
        )
        if self.on_postgres:
            context.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        if self.schema:
            context.execute(f'SET search_path TO "{self.schema}"')
        with context.begin_transaction():
            if self.schema:
                context.execute(creation_of(self.schema))
            context.run_migrations()

    async def online(self) -> None:
        """Migrate the database."""
        engine = migration_engine(self.settings)
        try:
            with reported(shown(self.url)):
                async with the_only_migration(engine), engine.connect() as connection:
                    await connection.run_sync(self._migrate)
        finally:
            await engine.dispose()

    def _migrate(self, connection: Connection) -> None:
        if self.on_postgres:
            event.listen(connection, "begin", self._enter_transaction)
        if self.schema:
            connection.dialect.default_schema_name = self.schema
        context.configure(connection=connection, **self.options)
        with context.begin_transaction():
            if self.schema and not context.get_context().opts.get("dont_mutate"):
                connection.execute(text(creation_of(self.schema)))
            context.run_migrations()

    def _enter_transaction(self, connection: Connection) -> None:
        """Bound the waits for tables, and let every unqualified name mean the operator's schema."""
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            return  # what is local to a transaction has no place there
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        if self.schema:
            connection.exec_driver_sql(f'SET LOCAL search_path TO "{self.schema}"')


# With the parameters of some drivers every percent sign is doubled, which nobody undoes in printed SQL.
NAMED_PARAMETERS = {"paramstyle": "named"}


def creation_of(schema: str) -> str:
    """Return what creates a schema that is missing; with ``IF NOT EXISTS`` an existing one takes privileges too."""
    create = f'CREATE SCHEMA "{schema}"'
    return f"DO $$ BEGIN IF to_regnamespace('\"{schema}\"') IS NULL THEN {create}; END IF; END $$"


@asynccontextmanager
async def the_only_migration(engine: AsyncEngine) -> AsyncIterator[None]:
    """Wait until no other migration runs on this database, and keep others waiting.

    Whoever waited inside a statement would hold a snapshot, and a concurrent index build of the migration that is
    waited for would wait in turn for that: so this asks again and again, in short transactions.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    ask = text("SELECT pg_try_advisory_xact_lock(:lock)").bindparams(lock=ADVISORY_LOCK)
    deadline = time.monotonic() + SECONDS_FOR_ANOTHER_MIGRATION
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        while not await connection.scalar(ask):
            await connection.rollback()
            if time.monotonic() > deadline:
                raise TimeoutError(f"another migration was still running after {SECONDS_FOR_ANOTHER_MIGRATION} s")
            await asyncio.sleep(0.1)
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield


def run(settings: Settings) -> None:
    """Run the command with these settings."""
    if context.is_offline_mode():
        Run(settings).offline()
    else:
        asyncio.run(Run(settings).online())


def run_at_the_shell() -> None:
    """Run the command with the settings of the shell, and say in one line what is wrong with them."""
    if context.config.config_file_name:
        logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    try:
        settings = settings_of_the_shell()
        try:
            run(settings)
        except CommandError:
            asyncio.run(require_known_revision(settings))  # what is wrong may be said better
            raise
    except McpSessionsError as error:
        raise CommandError(str(error)) from error


if (given := context.config.attributes.get("settings")) is not None:
    run(given)
else:
    run_at_the_shell()
