"""Database URLs as people have them, checked and given the right driver."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mcp_sessions.errors import ConfigurationError

_EXAMPLES = "sqlite:///sessions.db or postgresql://user:password@host/database"
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


def parse_url(database_url: str) -> URL:
    """Return the URL with this package's driver for its engine, whatever driver it named.

    Raises:
        ConfigurationError: it is no URL of SQLite or Postgres, or a SQLite URL without a file in an existing folder.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"database_url is not a database URL; write it like {_EXAMPLES}") from None
    engine = url.drivername.partition("+")[0]
    if engine not in _DRIVERS:
        raise ConfigurationError(f"database_url names the unknown engine {engine!r}; write it like {_EXAMPLES}")
    url = url.set(drivername=_DRIVERS[engine])
    return _with_file(url) if engine == "sqlite" else url


def shown(url: URL) -> str:
    """Return the URL for people to read: without the password and without our driver's name."""
    # Without the query too: a password may stand there.
    return url.set(drivername=url.get_backend_name(), query={}).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """Return the file that a SQLite URL names; None for Postgres."""
    if url.get_backend_name() != "sqlite":
        return None
    return Path((url.database or "").removeprefix("file:"))


def _with_file(url: URL) -> URL:
    if url.host:
        raise ConfigurationError("database_url of SQLite needs three slashes before a relative path: sqlite:///file.db")
    if url.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "database_url must name a SQLite file, like sqlite:///sessions.db: memory does not last"
        )
    folder = (sqlite_file(url) or Path()).parent
    if not folder.is_dir():
        raise ConfigurationError(f"database_url names a file in {folder}, which is no folder; create it first")
    return url
