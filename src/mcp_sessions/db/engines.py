"""Which engine a URL names: the one place that asks."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_sessions.db import postgres
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.sqlite import engine as sqlite
from mcp_sessions.db.sqlite.backend import SqliteBackend
from mcp_sessions.db.urls import parse_url, sqlite_file
from mcp_sessions.settings import Settings

_MakeEngine = Callable[[URL, Settings], AsyncEngine]
_BACKENDS: dict[str, type[postgres.PostgresBackend] | type[SqliteBackend]] = {
    "postgresql": postgres.PostgresBackend,
    "sqlite": SqliteBackend,
}
_MIGRATING: dict[str, _MakeEngine] = {"postgresql": postgres.migration_engine, "sqlite": sqlite.migration_engine}
_READING: dict[str, _MakeEngine] = {"postgresql": postgres.reading_engine, "sqlite": sqlite.reading_engine}


def backend_of(settings: Settings) -> Backend:
    """Return the backend of the database that these settings name; it connects when it is first used."""
    url = parse_url(settings.database_url)
    return _BACKENDS[url.get_backend_name()](url, settings)


def file_of(settings: Settings) -> Path | None:
    """Return the file that the database is, as on SQLite; None where it is a server's."""
    url = parse_url(settings.database_url)
    return sqlite_file(url) if url.get_backend_name() == "sqlite" else None


def migration_engine(settings: Settings) -> AsyncEngine:
    """Return the engine that migrations run on: no pool, no bound on a statement's time."""
    url = parse_url(settings.database_url)
    return _MIGRATING[url.get_backend_name()](url, settings)


def reading_engine(settings: Settings) -> AsyncEngine:
    """Return an engine to read from once: no pool, and no transaction that would wait for a writer."""
    url = parse_url(settings.database_url)
    return _READING[url.get_backend_name()](url, settings)
