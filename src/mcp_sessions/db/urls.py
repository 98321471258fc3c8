"""Database URLs as people have them, checked and given the right driver."""

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mcp_sessions.errors import ConfigurationError

_EXAMPLES = "sqlite:///sessions.db or postgresql://user:password@host/database"
_LIBPQ_ONLY = ("channel_binding", "connect_timeout", "gssencmode")
"""What hosters put into URLs and asyncpg would pass on as a setting of the server, which refuses it."""

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}

_POSTGRES = re.compile(
    r"(?P<before>[^:/?#@]+://(?:[^@/?#]*@)?)(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(?:\?(?P<query>[^@#]*))?"
)
"""A URL that can be read in one way alone: what has a meaning in URLs does not stand in a user or a password."""

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")
_SQLITE_QUERY = {"uri", "mode", "cache", "immutable", "vfs", "timeout", "check_same_thread"}
_YES = {"true", "yes", "on", "y", "t", "1"}  # as SQLAlchemy reads it
_HIGHEST_PORT = 65535
_TARGETS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")


def parse_url(database_url: str) -> URL:
    """Return the URL with this package's driver for its engine, whatever driver it named.

    Raises:
        ConfigurationError: it is no URL of SQLite or Postgres, or a SQLite URL without a file in an existing folder.
    """
    text = database_url.strip()
    if _DRIVERS.get(_engine_of(text)) == _DRIVERS["postgresql"]:
        text = _unambiguous(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _no_url() from None
    engine = _engine_of(url.drivername)
    if engine not in _DRIVERS:
        raise ConfigurationError(f"database_url names the unknown engine {engine!r}; write it like {_EXAMPLES}")
    url = url.set(drivername=_DRIVERS[engine])
    return _with_file(url) if engine == "sqlite" else _with_server(url)


def shown(url: URL) -> str:
    """Return the URL for people to read: without the password and without our driver's name."""
    # Of the query only where the server is: a password may stand there too.
    where = {name: value for name, value in url.query.items() if name in {"host", "port"}}
    return url.set(drivername=url.get_backend_name(), query=where).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path:
    """Return the file that a URL of SQLite names."""
    name = url.database or ""
    is_uri = name.startswith("file:") and url.query.get("uri") in _YES
    return Path(unquote(urlsplit(name).path) if is_uri else name)


def existing_file(url: URL, file: Path) -> URL:
    """Return the URL of a SQLite file with which it is opened wherever the process stands, and never created."""
    name = f"file:{quote(str(file.absolute()))}"
    return url.set(database=name, query={"mode": "rw", **url.query, "uri": "true"})


def _no_url() -> ConfigurationError:
    return ConfigurationError(f"database_url is not a database URL; write it like {_EXAMPLES}")


def _engine_of(text: str) -> str:
    return text.partition(":")[0].partition("+")[0].lower()


def _unambiguous(text: str) -> str:
    """Return a Postgres URL with several hosts, each with its port, where SQLAlchemy lets them pass: ``?host=a:1,b:2``.

    What might be a part of a password is nowhere else, neither in what is connected to nor in what is shown.
    """
    if (match := _POSTGRES.fullmatch(text)) is None:
        raise ConfigurationError(
            "database_url cannot be told apart from its user or password; in these, whatever else may stand raw, "
            "write it as %40 for an @, %2F for a /, %3F for a ?, %23 for a #, %3A for a : and %25 for a %"
        )
    if "\0" in _decoded(text) or not text.isprintable():
        raise ConfigurationError("database_url holds a character that cannot be meant: a control character")
    hosts = match["hosts"].split(",")
    if not all(map(_HOST.fullmatch, hosts)):
        raise _no_url()
    if len(hosts) == 1:
        return text
    query = "&".join(part for part in (f"host={match['hosts']}", match["query"]) if part)
    return f"{match['before']}{match['path'] or '/'}?{query}"


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise ConfigurationError(
            "database_url holds a % that begins no character of UTF-8: a % that stands for itself is written as %25"
        ) from None


def _with_server(url: URL) -> URL:
    if url.port is not None and not 1 <= url.port <= _HIGHEST_PORT:
        raise ConfigurationError(f"database_url names the port {url.port}; ports end at {_HIGHEST_PORT}")
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    if "ssl" in query:  # as SQLAlchemy spells it for asyncpg, which knows libpq's name alone
        query.setdefault("sslmode", query.pop("ssl"))
    for name in _LIBPQ_ONLY:
        query.pop(name, None)
    service = _service_of(query)
    hosts = query.get("host") or url.host or service.get("host") or os.environ.get("PGHOST", "")
    if "," in hosts and not all(host.partition(":")[0] for host in hosts.split(",")):
        raise ConfigurationError("one of several database hosts has no name: two commas, or one too many")
    named = query.get("target_session_attrs") or service.get("target_session_attrs")
    in_environment = os.environ.get("PGTARGETSESSIONATTRS")
    target = named or in_environment or ("read-write" if "," in hosts else "any")  # a standby has what has ended
    if target not in _TARGETS:
        raise ConfigurationError(f"target_session_attrs is {target!r}; it can be {', '.join(_TARGETS)}")
    if target != "any" or in_environment is not None:
        query["target_session_attrs"] = target
    return url.set(query=query)


def _service_of(query: Mapping[str, str]) -> Mapping[str, str]:
    """Return what the connection service file says of the service that a URL names, where the driver looks for it."""
    file = query.get("servicefile") or os.environ.get("PGSERVICEFILE") or Path("~/.pg_service.conf").expanduser()
    services = configparser.ConfigParser(interpolation=None)
    try:
        services.read(file)
        return services[query.get("service", "")]
    except (configparser.Error, KeyError, OSError, UnicodeError):
        return {}  # the driver tells what is wrong with it, if it matters


def _with_file(url: URL) -> URL:
    if url.host:
        raise ConfigurationError("database_url of SQLite needs three slashes before a relative path: sqlite:///file.db")
    if unknown := sorted(url.query.keys() - _SQLITE_QUERY):
        raise ConfigurationError(
            f"database_url of SQLite has the unknown parameter {', '.join(unknown)}; "
            f"those known are {', '.join(sorted(_SQLITE_QUERY))}"
        )
    name = url.database or ""
    if not name or "\0" in name or ":memory:" in name or url.query.get("mode") == "memory":
        raise ConfigurationError(
            "database_url must name a SQLite file, like sqlite:///sessions.db: memory does not last"
        )
    file = sqlite_file(url)
    try:
        if file.is_dir():
            raise ConfigurationError(f"database_url names {file}, which is a folder; name a file in it")
        if not file.parent.is_dir():
            raise ConfigurationError(f"database_url names a file in {file.parent}, which is no folder; create it first")
    except OSError as error:
        raise ConfigurationError(f"database_url names a file that cannot be reached: {error.strerror}") from None
    return url
