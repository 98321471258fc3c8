"""The schema's revision: which one a database is at, which one this package needs, and the way between them.

Alembic alone creates and changes tables. Its scripts stand in ``migrations/`` at the root of a checkout; the wheel
carries them inside the package.
"""

import asyncio
import io
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TextIO

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from mcp_sessions.db.engine import reading_engine
from mcp_sessions.db.faults import FAULTS, translated
from mcp_sessions.db.tables import VERSION_TABLE
from mcp_sessions.db.urls import parse_url, shown, sqlite_file
from mcp_sessions.errors import SchemaRevisionError
from mcp_sessions.settings import Settings

_INSIDE_WHEEL, _IN_CHECKOUT = Path(__file__).parents[1], Path(__file__).parents[3]


def config_of(settings: Settings, sql: TextIO | None = None) -> Config:
    """Return Alembic's configuration for these settings: the same scripts that ``alembic`` runs at the root."""
    config = Config(_home() / "alembic.ini", stdout=io.StringIO(), output_buffer=sql)
    config.attributes["settings"] = settings
    return config


@cache
def head_revision() -> str:
    """Return the revision that this version of the package was built for."""
    (head,) = ScriptDirectory(_home() / "migrations").get_heads()
    return head


async def current_revision(settings: Settings) -> str | None:
    """Return the revision that the database is at; None where it was never migrated.

    Raises:
        DatabaseError: the database could not be asked.
        SchemaRevisionError: the database says that it is at several.
    """
    url = parse_url(settings.database_url)
    if (file := sqlite_file(url)) is not None and not file.exists():
        return None  # asking would create it
    asking = asyncio.ensure_future(_asked_for_revision(settings))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        await asyncio.wait([asking])  # or else a connection and, with SQLite, a thread would stay behind
        asking.exception()  # nobody asks for it any more
        raise
    except FAULTS as fault:
        raise translated(fault, shown(url)) from fault


async def _asked_for_revision(settings: Settings) -> str | None:
    engine = reading_engine(settings)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_revision_of, settings.database_schema)
    finally:
        await engine.dispose()


async def upgrade(settings: Settings, revision: str = "head") -> None:
    """Migrate the database up to a revision; of many processes that try at once, one does it.

    Raises:
        DatabaseError: the database could not be migrated; it is as it was before.
        SchemaRevisionError: there is no such revision, or the database is at one that is unknown here.
    """
    await _alembic(settings, lambda config: command.upgrade(config, revision))


async def upgrade_sql(settings: Settings, revision: str = "head") -> str:
    """Return the SQL that brings an empty database to a revision; connects to none."""
    sql = io.StringIO()
    await _alembic(settings, lambda config: command.upgrade(config, revision, sql=True), sql)
    return sql.getvalue()


async def downgrade(settings: Settings, revision: str) -> None:
    """Migrate the database down to a revision; raises what ``upgrade`` raises."""
    await _alembic(settings, lambda config: command.downgrade(config, revision))


async def check_differences(settings: Settings) -> None:
    """Compare the tables in the database with those this package works with.

    Raises:
        SchemaRevisionError: they differ; the message says in what.
    """
    if (current := await current_revision(settings)) != head_revision():
        raise _another_revision(settings, current)
    await _alembic(settings, command.check)


async def require_revision(settings: Settings) -> None:
    """Make sure that the database is at the revision this package was built for.

    The embedded default upgrades itself: a SQLite database is migrated here unless ``auto_upgrade`` is off.

    Raises:
        SchemaRevisionError: it is at another one; the message names both and the command that mends it.
    """
    current = await current_revision(settings)
    if current == head_revision():
        return
    auto_upgrade = settings.auto_upgrade
    if auto_upgrade is None:
        auto_upgrade = parse_url(settings.database_url).get_backend_name() == "sqlite"
    if not auto_upgrade or not _is_known(current):
        raise _another_revision(settings, current)
    await upgrade(settings)


async def require_known_revision(settings: Settings) -> None:
    """Make sure that the database is at a revision that this version of the package knows, or at none.

    Raises:
        SchemaRevisionError: it is not; the message names both revisions and what mends it.
    """
    if not _is_known(current := await current_revision(settings)):
        raise _another_revision(settings, current)


def _home() -> Path:
    return _INSIDE_WHEEL if (_INSIDE_WHEEL / "migrations").is_dir() else _IN_CHECKOUT


def _revision_of(connection: Connection, schema: str | None) -> str | None:
    in_schema = schema if connection.dialect.name == "postgresql" else None
    options = {"version_table": VERSION_TABLE, "version_table_schema": in_schema}
    heads = MigrationContext.configure(connection, opts=options).get_current_heads()
    return " and ".join(sorted(heads)) or None


def _is_known(revision: str | None) -> bool:
    return revision is None or revision in _known_revisions()


@cache
def _known_revisions() -> list[str]:
    return sorted(script.revision for script in ScriptDirectory(_home() / "migrations").walk_revisions())


def _another_revision(settings: Settings, current: str | None) -> SchemaRevisionError:
    database, needed = shown(parse_url(settings.database_url)), head_revision()
    if _is_known(current):
        return SchemaRevisionError(
            f"the database {database} is at schema revision {current or 'none'}, and this version of mcp-sessions "
            f"was built for {needed}: run 'mcp-sessions db upgrade' (or 'alembic upgrade head'), with this database as "
            "--database-url or MCP_SESSIONS_DATABASE_URL"
        )
    return SchemaRevisionError(
        f"the database {database} is at schema revision {current}, which is unknown to this version of "
        f"mcp-sessions: it was built for {needed}. A newer version has migrated it: install that version, or run "
        f"its 'mcp-sessions db downgrade {needed}'"
    )


# Alembic keeps the command that is running in a global variable.
_ONE_COMMAND_AT_A_TIME = threading.Lock()


async def _alembic(settings: Settings, run: Callable[[Config], None], sql: TextIO | None = None) -> None:
    def run_alone() -> None:
        with _ONE_COMMAND_AT_A_TIME:
            run(config_of(settings, sql))

    try:
        # In a thread: Alembic is synchronous, and env.py runs an event loop of its own.
        await asyncio.to_thread(run_alone)
    except CommandError as error:
        if not _is_known(current := await current_revision(settings)):
            raise _another_revision(settings, current) from error
        raise SchemaRevisionError(f"{error} (the revisions are {', '.join(_known_revisions())})") from error
