"""Workers of the last release go on serving while, and after, this version migrates their database.

The release is a git revision, named by the environment variable RELEASE: there is nothing to compare with before the
first one.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.schema.revisions import check_differences
from mcp_sessions.settings import Settings
from tests.support.mcp_client import RawClient
from tests.support.migrating import ROOT, alembic
from tests.support.processes import GuardedServer, accepts, free_port
from tests.support.sockets import SocketBrowser, SocketExchange

RELEASE = os.environ.get("RELEASE", "")

pytestmark = pytest.mark.skipif(not RELEASE, reason="RELEASE names no revision whose workers are to be tried")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the last release."""
    folder = tmp_path_factory.mktemp("release")
    archive = folder / "sources.tar"
    subprocess.run(["git", "archive", f"--output={archive}", RELEASE], cwd=ROOT, check=True, timeout=60)
    with tarfile.open(archive) as sources:
        sources.extractall(folder)  # noqa: S202 - git made it of our own history
    return folder


def environment_of(release: Path, url: str) -> dict[str, str]:
    """The environment in which a process runs the release's code on a database."""
    path = os.pathsep.join([str(release / "src"), *sys.path])
    return {"PYTHONPATH": path, "MCP_SESSIONS_DATABASE_URL": url, "PATH": os.environ["PATH"]}


@contextmanager
def served_by(release: Path, url: str) -> Iterator[SocketBrowser]:
    """Two workers of the release, on a database that its own migrations made."""
    environment = environment_of(release, url)
    command = (sys.executable, "-m", "mcp_sessions")
    subprocess.run([*command, "db", "upgrade"], cwd=release, env=environment, check=True, timeout=60)
    port = free_port()
    server = GuardedServer("release", account={}, environment=environment)
    try:
        arguments = ("serve", "--port", str(port), "--workers", "2")
        server.start(*command, *arguments, ready=lambda: accepts(port), seconds=40)
        yield SocketBrowser(port)
    finally:
        server.close()


async def test_workers_of_the_last_release_outlive_the_migration(release: Path, empty_database_url: str) -> None:
    """Sessions from before it go on, new ones are opened, and what this version ends the old workers end too."""
    with served_by(release, empty_database_url) as workers:
        before: RawClient[SocketExchange] = RawClient(workers)
        await before.initialize()
        alembic("-x", f"url={empty_database_url}", "upgrade", "head")
        await check_differences(Settings(database_url=empty_database_url))
        assert await before.call("this_session")
        since: RawClient[SocketExchange] = RawClient(workers)
        await since.initialize()
        assert await since.call("this_session")
        async with SessionManager.open(empty_database_url, auto_upgrade=False) as sessions:
            assert await sessions.get_active_session_count() == 2
            assert await sessions.terminate_session(before.session_id or "")
        assert (await before.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status == 404
        assert (await since.send("DELETE")).status == 204
