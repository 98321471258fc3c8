"""What a manager does with a database at another revision than its own, and many that open a new file at once."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Unpack

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.schema.revisions import check_differences, current_revision, downgrade, head_revision, upgrade
from mcp_sessions.errors import DatabaseUnavailableError, InvalidInputError, SchemaRevisionError
from mcp_sessions.settings import Settings, SettingsByName
from tests.support.plain import execute, tables

MENDS_OLDER = r"run 'mcp-sessions db upgrade' \(or 'alembic upgrade head'\), with this database as .*DATABASE_URL"


async def open_and_close(url: str, **settings: Unpack[SettingsByName]) -> None:
    """Open a manager on a database and leave it."""
    async with SessionManager.open(url, scheduled_cleanup=False, **settings):
        pass


async def make_revision_unknown(url: str) -> None:
    """Have the database say that a version from the future has migrated it."""
    await execute(url, "UPDATE mcp_sessions_alembic_version SET version_num = '9999'")


# Older, newer, none


@pytest.mark.parametrize(("to", "shown"), [("0001", "0001"), ("base", "none")])
async def test_an_older_database_is_refused(database_url: str, to: str, shown: str) -> None:
    """Without automatic upgrades, opening names the database's revision, the package's, and the mending command."""
    await downgrade(Settings(database_url=database_url), to)
    needed = f"is at schema revision {shown}, .* was built for {head_revision()}: {MENDS_OLDER}$"
    with pytest.raises(SchemaRevisionError, match=needed):
        await open_and_close(database_url, auto_upgrade=False)
    assert await current_revision(Settings(database_url=database_url)) == (None if to == "base" else to)


async def test_a_database_never_migrated_is_refused(empty_postgres_url: str) -> None:
    """By default a Postgres database is not migrated by opening it, and nothing is made in it."""
    with pytest.raises(SchemaRevisionError, match=f"is at schema revision none, .*{MENDS_OLDER}"):
        await open_and_close(empty_postgres_url)
    assert await tables(empty_postgres_url) == {}


def test_a_missing_sqlite_file_is_not_made_against_the_setting(empty_sqlite_url: str, tmp_path: Path) -> None:
    """With `auto_upgrade=False` a missing SQLite file is refused and stays missing."""
    with pytest.raises(SchemaRevisionError, match="there is no file"):
        asyncio.run(open_and_close(empty_sqlite_url, auto_upgrade=False))
    assert list(tmp_path.iterdir()) == []


async def test_an_older_database_is_upgraded_where_that_is_wanted(database_url: str) -> None:
    """With automatic upgrades (the default on SQLite) opening migrates, and keeps the sessions."""
    async with SessionManager.open(database_url) as manager:
        session_id = await manager.create_session()
    await downgrade(Settings(database_url=database_url), "0001")
    wanted: SettingsByName = {} if database_url.startswith("sqlite") else {"auto_upgrade": True}
    async with SessionManager.open(database_url, **wanted) as manager:
        assert await manager.is_session_valid(session_id)
    assert await current_revision(Settings(database_url=database_url)) == head_revision()


async def test_a_newer_database_is_refused_by_everything(database_url: str) -> None:
    """A revision from the future is named beside ours by opening, upgrading and checking, and nothing is changed."""
    await make_revision_unknown(database_url)
    before = await tables(database_url)
    settings = Settings(database_url=database_url, auto_upgrade=True)
    needed = (
        f"schema revision 9999, which is unknown to .* built for {head_revision()}. "
        f".*'mcp-sessions db downgrade {head_revision()}'"
    )
    for attempt in (open_and_close(database_url), upgrade(settings), downgrade(settings, "base")):
        with pytest.raises(SchemaRevisionError, match=needed):
            await attempt
    with pytest.raises(SchemaRevisionError, match=needed):
        await check_differences(settings)
    assert await tables(database_url) == before


async def test_two_histories_in_the_version_table_are_refused(database_url: str) -> None:
    """A version table with two revisions is an error of ours that names both."""
    await execute(database_url, "INSERT INTO mcp_sessions_alembic_version VALUES ('9999')")
    with pytest.raises(SchemaRevisionError, match=f"{head_revision()} and 9999"):
        await open_and_close(database_url)


async def test_an_unknown_target_is_told_with_the_known_ones(database_url: str) -> None:
    """Migrating to a revision that does not exist says which ones do."""
    with pytest.raises(InvalidInputError, match=r"'7777': name one of 0001, 0002, 0003"):
        await upgrade(Settings(database_url=database_url), "7777")


async def test_checking_names_what_differs(database_url: str) -> None:
    """`check_differences` is content with a migrated database and names an index that is missing."""
    settings = Settings(database_url=database_url)
    await check_differences(settings)
    await execute(database_url, "DROP INDEX ix_sessions_cleanup_at")
    with pytest.raises(SchemaRevisionError, match="ix_sessions_cleanup_at"):
        await check_differences(settings)
    await downgrade(settings, "0002")
    with pytest.raises(SchemaRevisionError, match=f"revision 0002, .*{MENDS_OLDER}"):
        await check_differences(settings)


# Many at once

OPEN_EACH_FILE_THAT_IS_NAMED = """
import asyncio, sys
from mcp_sessions import SessionManager

async def open_and_create(url):
    async with SessionManager.open(url) as sessions:
        await sessions.create_session(tenant_id="acme")

print("ready", flush=True)
for line in sys.stdin:
    asyncio.run(open_and_create(line.strip()))
    print("opened", flush=True)
"""


@pytest.mark.slow
def test_processes_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    """Time after time four processes open the same new SQLite file: one migrates it and all create a session."""
    command = [sys.executable, "-c", OPEN_EACH_FILE_THAT_IS_NAMED]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(4)
        ]
        for worker in workers:
            stack.callback(worker.kill)
        assert answers_of(workers) == ["ready"] * 4
        for number in range(8):
            file = tmp_path / f"{number}.db"
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"sqlite:///{file}\n")
            assert answers_of(workers) == ["opened"] * 4
            with closing(sqlite3.connect(file)) as opened:
                assert opened.execute("SELECT count(*) FROM sessions").fetchone() == (4,)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
            assert worker.wait(timeout=20) == 0


def answers_of(workers: "list[subprocess.Popen[str]]") -> list[str]:
    """Return the next line that each worker prints; an empty one from a worker that ended."""
    return [worker.stdout.readline().strip() for worker in workers if worker.stdout is not None]


async def test_managers_of_one_process_open_a_new_database_at_once(empty_database_url: str) -> None:
    """Several managers of one process that open a new database together all find it migrated."""
    await asyncio.gather(*(open_and_close(empty_database_url, auto_upgrade=True) for _ in range(5)))
    assert await current_revision(Settings(database_url=empty_database_url)) == head_revision()


async def test_the_switch_to_wal_waits_for_the_busy_timeout(empty_sqlite_url: str) -> None:
    """A new file that another process has locked is waited for as long as any other lock, then told."""
    patience = timedelta(milliseconds=300)
    with closing(sqlite3.connect(empty_sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match=r"database is locked$"):
            await open_and_close(empty_sqlite_url, sqlite_busy_timeout=patience)
        assert time.monotonic() - began >= patience.total_seconds()
    await open_and_close(empty_sqlite_url)
