"""Databases that cannot be used: one error of ours that says why, in bounded time, with nothing half done."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mcp_sessions import DatabaseError, DatabaseUnavailableError, McpSessionsError, SchemaRevisionError, SessionManager
from mcp_sessions.db.schema.revisions import head_revision
from tests.support.processes import free_port, unprivileged
from tests.support.rows import Rows

SHORT = timedelta(seconds=1)


async def refused(url: str, error: type[McpSessionsError], **settings: Any) -> str:
    """Open a database that cannot be used, and return the message."""
    started = time.monotonic()
    with pytest.raises(error) as caught:
        async with SessionManager.open(url, **settings):
            pass
    assert time.monotonic() - started < 10
    assert isinstance(caught.value, McpSessionsError)
    return str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "no-such-host.invalid"])
async def test_nobody_listens(host: str) -> None:
    """An unreachable server is a fault that may pass; the message shows the URL without its password."""
    url = f"postgresql://ann:secret@{host}:{free_port()}/sessions"
    message = await refused(url, DatabaseUnavailableError, connect_timeout=SHORT)
    assert host in message
    assert "secret" not in message


async def test_somebody_listens_who_says_nothing(postgres_server: Any) -> None:
    """A server that takes connections and does not answer is given up after the connect timeout."""
    with postgres_server.database() as name:
        postgres_server.freeze()
        started = time.monotonic()
        await refused(postgres_server.url(name), DatabaseUnavailableError, connect_timeout=SHORT)
        assert time.monotonic() - started < 3


async def test_no_such_database(postgres_server: Any) -> None:
    """A mistyped database name is told."""
    assert "no_such_database" in await refused(postgres_server.url("no_such_database"), DatabaseError)


async def test_an_option_that_the_driver_refuses(postgres_url: str) -> None:
    """A mistyped option of the URL is told, and without the password."""
    url = postgres_url.replace("postgres@", "postgres:secret@")
    for option in ("sslmode=sometimes", "aplication_name=x"):
        message = await refused(f"{url}?{option}", DatabaseError)
        assert "secret" not in message


async def test_a_database_that_was_never_migrated(empty_postgres_url: str) -> None:
    """Postgres is not migrated by opening: the message names the revision needed and the command that mends it."""
    message = await refused(empty_postgres_url, SchemaRevisionError)
    assert head_revision() in message
    assert "none" in message
    assert "mcp-sessions db upgrade" in message
    tables = "SELECT count(*) AS n FROM pg_tables WHERE schemaname = 'public'"
    assert await Rows(empty_postgres_url).value(tables) == 0


async def test_a_file_that_was_never_migrated(empty_sqlite_url: str) -> None:
    """With ``auto_upgrade`` off, a missing SQLite file is an error too, and is not created."""
    message = await refused(empty_sqlite_url, SchemaRevisionError, auto_upgrade=False)
    assert head_revision() in message
    assert "mcp-sessions db upgrade" in message
    assert not Path(empty_sqlite_url.removeprefix("sqlite:///")).exists()


async def test_an_older_revision(database_url: str) -> None:
    """Behind: the message names both revisions and the command that mends it; nothing is changed."""
    rows = Rows(database_url)
    await rows.execute("UPDATE mcp_sessions_alembic_version SET version_num = '0001'")
    message = await refused(database_url, SchemaRevisionError, auto_upgrade=False)
    assert "0001" in message
    assert head_revision() in message
    assert "mcp-sessions db upgrade" in message
    assert await rows.value("SELECT version_num FROM mcp_sessions_alembic_version") == "0001"


@pytest.mark.parametrize("auto_upgrade", [None, True, False])
async def test_an_unknown_revision(database_url: str, auto_upgrade: bool | None) -> None:
    """Ahead, or somebody else's: the message names both revisions and says what to do; nothing is changed."""
    rows = Rows(database_url)
    await rows.execute("UPDATE mcp_sessions_alembic_version SET version_num = 'from_the_future'")
    message = await refused(database_url, SchemaRevisionError, auto_upgrade=auto_upgrade)
    assert "from_the_future" in message
    assert head_revision() in message
    assert "mcp-sessions db downgrade" in message
    assert await rows.value("SELECT version_num FROM mcp_sessions_alembic_version") == "from_the_future"


async def test_two_revisions_at_once(database_url: str) -> None:
    """A version table that somebody tampered with is an error of ours as well."""
    await Rows(database_url).execute("INSERT INTO mcp_sessions_alembic_version VALUES ('other')")
    assert f"{head_revision()} and other" in await refused(database_url, SchemaRevisionError)


async def test_a_table_that_is_missing(database_url: str) -> None:
    """Right revision, no table: the fault says what may mend it, and is no "no such session"."""
    async with SessionManager.open(database_url) as manager:
        await Rows(database_url).execute("ALTER TABLE sessions RENAME TO elsewhere")
        for call in (manager.is_session_valid("a"), manager.touch_session("a"), manager.create_session("a")):
            with pytest.raises(DatabaseError, match="mcp-sessions db upgrade"):
                await call


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of another kind is refused, and is left as it is."""
    file = tmp_path / "notes.txt"
    file.write_text("Not a database. " * 1000)
    before = file.read_bytes()
    assert "not a database" in await refused(f"sqlite:///{file}", DatabaseError)
    assert file.read_bytes() == before


def test_a_failure_to_open_leaves_no_thread(tmp_path: Path) -> None:
    """A program may end its event loop as soon as it is told: no thread goes on, or misses the loop."""
    (tmp_path / "notes.txt").write_text("Not a database. " * 1000)
    (tmp_path / "broken.db").symlink_to(tmp_path / "no" / "such" / "file")

    async def fail_to_open(name: str) -> None:
        with pytest.raises(DatabaseError):
            async with SessionManager.open(f"sqlite:///{tmp_path / name}"):
                pass

    before = set(threading.enumerate())
    for _ in range(10):
        for name in ("notes.txt", "broken.db"):
            asyncio.run(fail_to_open(name))
            assert set(threading.enumerate()) == before


async def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    """Tables that lie in the file already stay as they are, beside ours."""
    file = tmp_path / "theirs.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as theirs:
        theirs.executescript("CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('x')")
    async with SessionManager.open(f"sqlite:///{file}") as manager:
        await manager.create_session()
    assert await Rows(f"sqlite:///{file}").value("SELECT version_num FROM alembic_version") == "x"


async def test_a_file_opened_for_reading_only(sqlite_url: str) -> None:
    """What only reads works on a read-only file; what writes is an error that says so, and not a passing one."""
    async with SessionManager.open(sqlite_url) as manager:
        await manager.create_session("kept")
    read_only = sqlite_url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    async with SessionManager.open(read_only, scheduled_cleanup=False) as manager:
        assert await manager.is_session_valid("kept")
        for call in (manager.create_session(), manager.terminate_session("kept"), manager.clear_all_sessions()):
            with pytest.raises(DatabaseError, match="cannot be written to") as caught:
                await call
            assert not isinstance(caught.value, DatabaseUnavailableError)
        assert await manager.get_active_session_count() == 1


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that an unprivileged account can reach: pytest's own are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="mcp-sessions-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


AS_NOBODY = """
    import asyncio, os, sys
    from mcp_sessions import SessionManager

    async def use(url):
        async with SessionManager.open(url) as manager:
            assert await manager.is_session_valid("kept")
            await manager.create_session()

    allowed, forbidden, user, group = sys.argv[1:]
    asyncio.run(use(allowed))  # loads what an unprivileged account may not be able to read
    if user:
        os.setgroups([])
        os.setgid(int(group))
        os.setuid(int(user))
    try:
        asyncio.run(use(forbidden))
    except Exception as error:
        print(type(error).__module__, type(error).__name__, error)
"""


def denied(allowed: str, forbidden: str) -> str:
    """Use one database with, then another one without any privilege; return the error that this gave."""
    account = unprivileged()
    result = subprocess.run(
        [sys.executable, "-c", dedent(AS_NOBODY), allowed, forbidden]
        + [str(account.get(name, "")) for name in ("user", "group")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stderr == ""
    return result.stdout


async def keep_one_session_in(url: str) -> None:
    """Make a database with the session "kept"."""
    async with SessionManager.open(url) as manager:
        await manager.create_session("kept")


async def test_a_file_without_permission_to_write(shared_folder: Path, sqlite_url: str) -> None:
    """A file that this account may read but not write is an error that says so; the file stays as it is."""
    await keep_one_session_in(sqlite_url)
    file = shared_folder / "sessions.db"
    await keep_one_session_in(f"sqlite:///{file}")
    file.chmod(0o444)
    message = denied(sqlite_url, f"sqlite:///{file}")
    assert message.startswith("mcp_sessions.errors DatabaseError")
    assert await Rows(f"sqlite:///{file}").count() == 1


async def test_a_folder_without_permission_to_enter(shared_folder: Path, sqlite_url: str) -> None:
    """A folder that is closed to this account is told as a setting to mend."""
    await keep_one_session_in(sqlite_url)
    closed = shared_folder / "closed" / "inner"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o600)
    message = denied(sqlite_url, f"sqlite:///{closed}/sessions.db")
    assert message.startswith("mcp_sessions.errors ConfigurationError")
    assert "database_url" in message
    closed.parent.chmod(0o700)
    assert not any(closed.iterdir())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, where nobody can make files")
async def test_a_folder_in_which_no_file_can_be_made() -> None:
    """Where the file cannot be created there is one error."""
    assert "unable to open database file" in await refused("sqlite:////proc/sessions.db", DatabaseError)
