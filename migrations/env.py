"""How Alembic reaches the database: the settings of mcp-sessions, or ``-x url=...`` and ``-x schema=...``.

All migrations of one command run in one transaction. On Postgres it begins with an advisory lock, so that of many
commands at once one migrates and the others find nothing left to do; on SQLite ``BEGIN IMMEDIATE`` is that lock.
"""

import asyncio
import logging.config

from alembic import context
from sqlalchemy import Connection, text

from mcp_sessions.db.engine import migration_engine
from mcp_sessions.db.tables import VERSION_TABLE, metadata
from mcp_sessions.db.urls import parse_url
from mcp_sessions.settings import Settings, load_settings

# How long a migration waits for another one, and then for a lock on a table that the application is using. While
# it waits for a table, whoever comes later waits behind it: better to give up soon and to be run again.
WAIT_FOR_ANOTHER_MIGRATION = "10min"
WAIT_FOR_A_TABLE = "5s"

# Any constant that no other program is likely to lock.
ADVISORY_LOCK = 0x6D63705F73657373


def settings_of_this_run() -> Settings:
    """Return the settings of the package's own command, or those of ``alembic`` at the shell."""
    if (given := context.config.attributes.get("settings")) is not None:
        return given
    if context.config.config_file_name:
        logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    arguments = context.get_x_argument(as_dictionary=True)
    return load_settings(database_url=arguments.get("url"), database_schema=arguments.get("schema"))


settings = settings_of_this_run()
dialect = parse_url(settings.database_url).get_backend_name()
schema = settings.database_schema if dialect == "postgresql" else None


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Compare only our own tables: the database may hold others."""
    return kind != "table" or name in metadata.tables


OPTIONS = {
    "target_metadata": metadata,
    "version_table": VERSION_TABLE,
    "version_table_schema": schema,
    "include_name": is_ours,
    "transactional_ddl": True,
    "compare_server_default": True,
}


def enter_schema(connection: Connection) -> None:
    """Make the operator's schema, where one is set, the one that every unqualified name means."""
    if schema is None:
        return
    known = connection.execute(text("SELECT 1 FROM pg_namespace WHERE nspname = :schema"), {"schema": schema}).first()
    if known is None:
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
    connection.dialect.default_schema_name = schema


def run(connection: Connection) -> None:
    """Migrate over an open connection."""
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        if dialect == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_ANOTHER_MIGRATION}'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_FOR_A_TABLE}'"))
            enter_schema(connection)
        context.run_migrations()


async def run_online() -> None:
    """Migrate the database."""
    engine = migration_engine(settings)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def run_offline() -> None:
    """Print the SQL (``--sql``) instead of running it."""
    context.configure(url=f"{dialect}://", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        if dialect == "postgresql":
            context.execute(f"SET LOCAL lock_timeout = '{WAIT_FOR_A_TABLE}'")
            if schema:
                context.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
                context.execute(f'SET LOCAL search_path TO "{schema}"')
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(run_online())
