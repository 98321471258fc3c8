"""Run `mcp-sessions` in this process or as one of its own, on a database with sessions in it."""

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from typer.testing import CliRunner, Result

import mcp_sessions
from mcp_sessions import Owner, SessionManager
from mcp_sessions.cli.app import app
from mcp_sessions.digests import mint_session_id
from mcp_sessions.records.sessions import OWNER_FIELDS
from tests.support.rows import Row, Rows

SOURCES = Path(mcp_sessions.__file__).parents[1]


class CommandLine:
    """`mcp-sessions` on one database; every run is searched for the session ids it must not print."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session_ids: set[str] = set()

    def create(
        self,
        session_id: str | None = None,
        *,
        tenant_id: str | None = None,
        client_id: str | None = None,
        issuer: str | None = None,
        subject: str | None = None,
    ) -> str:
        """Store a session and return its id."""
        session_id = session_id or mint_session_id()
        self._store([session_id], Owner(tenant_id, client_id, issuer, subject))
        return session_id

    def create_many(self, count: int, owner: Owner) -> None:
        """Store that many sessions of one owner."""
        self._store([mint_session_id() for _ in range(count)], owner)

    def _store(self, session_ids: list[str], owner: Owner) -> None:
        self._session_ids.update(session_ids)
        parts = {name: getattr(owner, name) for name in OWNER_FIELDS}

        async def create() -> None:
            async with SessionManager.open(self.url, scheduled_cleanup=False) as manager:
                await asyncio.gather(*(manager.create_session(each, **parts) for each in session_ids))

        asyncio.run(create())

    def lives(self, session_id: str) -> bool:
        """Tell whether the session is live."""

        async def ask() -> bool:
            async with SessionManager.open(self.url, scheduled_cleanup=False) as manager:
                return await manager.is_session_valid(session_id)

        return asyncio.run(ask())

    def expire(self, *session_ids: str) -> None:
        """Make the sessions a day older than they are, so that they are expired."""
        for each in session_ids:
            asyncio.run(Rows(self.url).age(each, timedelta(days=1)))

    def sql(self, statement: str) -> list[Row]:
        """Run a statement past everything that is tested, and return the rows it gives."""
        return asyncio.run(Rows(self.url).fetch(statement))

    def __call__(self, *arguments: str, stdin: str | bytes = "", columns: int | None = 120, **env: str) -> Result:
        """Run a command in this process."""
        width = None if columns is None else str(columns)
        environment = {"MCP_SESSIONS_DATABASE_URL": self.url, "COLUMNS": width, **env}
        result = CliRunner().invoke(app, arguments, input=stdin, env=environment, catch_exceptions=False)
        self.check_secrecy(result.output)
        return result

    def process(
        self, *arguments: str, stdin: bytes = b"", stderr: int = subprocess.PIPE, **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as a process of its own, with no terminal."""
        result = subprocess.run(
            [sys.executable, "-m", "mcp_sessions", *arguments],
            env=self.environment() | env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=30,
            check=False,
        )
        self.check_secrecy((result.stdout + (result.stderr or b"")).decode())
        return result

    def process_to(
        self, stdout: IO[bytes], *arguments: str, stderr: IO[bytes] | int = subprocess.PIPE
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command as a process of its own, with its output going elsewhere."""
        command = [sys.executable, "-m", "mcp_sessions", *arguments]
        return subprocess.run(
            command,
            env=self.environment(),
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment that processes run in."""
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        return environment | {"MCP_SESSIONS_DATABASE_URL": self.url, "PYTHONPATH": str(SOURCES)}

    def check_secrecy(self, output: str) -> None:
        """Fail if the output shows a session id of this database."""
        # Line ends may come from wrapping at the width of a terminal.
        assert not any(each in output.replace("\n", "") for each in self._session_ids)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the `.env` of a developer."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(database_url: str) -> CommandLine:
    """The command line on a fresh, migrated database, on one engine after the other."""
    return CommandLine(database_url)


@pytest.fixture
def sqlite_cli(sqlite_url: str) -> CommandLine:
    """The command line on a fresh, migrated SQLite file: for what does not depend on the engine."""
    return CommandLine(sqlite_url)


@pytest.fixture
def empty_cli(empty_database_url: str) -> CommandLine:
    """The command line on a database without a schema, on one engine after the other."""
    return CommandLine(empty_database_url)
