"""`mcp-sessions demo`: it shows what it promises, fails where that does not hold, and leaves nothing behind."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mcp_sessions import SessionManager
from tests.support.processes import poll
from tests.support.serving import environment

STEPS = 11
PATIENCE = 130  # seconds, beyond the demo's own bound: it starts four workers, and a machine may be busy
pytestmark = pytest.mark.timeout(150)
DIGEST = r"\b[0-9a-f]{12}\b"


@contextmanager
def demo(folder: Path, *arguments: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the demo in a folder, which is also where its temporary files are."""
    with subprocess.Popen(
        [sys.executable, "-m", "mcp_sessions", "demo", *arguments],
        cwd=folder,
        env=environment(TMPDIR=str(folder), **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                child.kill()
            process.kill()


@pytest.mark.slow
def test_shows_that_a_session_outlives_its_workers(tmp_path: Path) -> None:
    """Every step is ticked in under a minute, and the session's life is told, with its audit trail."""
    with demo(tmp_path) as process:
        output, messages = process.communicate(timeout=PATIENCE)
    assert (process.returncode, messages) == (0, "")
    assert output.count("✓") == STEPS
    assert "✗" not in output
    life, _, trail = output.partition("The session, as SQL had it")[2].partition("The audit trail, from session_events")
    one, *same, by_tool, other = re.findall(DIGEST, life)
    assert same == [one, one]
    assert len({one, by_tool, other}) == 3
    assert re.search("^DELETE +no row", life, re.MULTILINE)
    rows = [re.split(" {2,}", line)[1:] for line in trail.splitlines() if re.search(DIGEST, line)]
    assert [row[:4] for row in rows] == [
        [digest, *event, "owner"]
        for digest, reason in ((one, "created"), (by_tool, "created by a tool"), (other, "created"))
        for event in (["created", reason], ["terminated", "terminated"])
    ]
    assert all(float(lived.split()[0]) > 0 for *_, lived in rows[1::2])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
async def test_runs_on_a_database_of_its_users_choice(tmp_path: Path, postgres_url: str) -> None:
    """On Postgres, given by an option, it leaves no session behind; the database of the environment is not touched."""
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    with demo(tmp_path, "--database-url", postgres_url, MCP_SESSIONS_DATABASE_URL=elsewhere) as process:
        output, messages = process.communicate(timeout=PATIENCE)
    assert (process.returncode, messages) == (0, "")
    assert output.count("✓") == STEPS
    async with SessionManager.open(postgres_url, scheduled_cleanup=False) as sessions:
        assert await sessions.get_active_session_count() == 0
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_needs_a_database_that_is_migrated(tmp_path: Path, empty_postgres_url: str) -> None:
    """A Postgres database without the tables: exit code 4, and what to run."""
    with demo(tmp_path, "--database-url", empty_postgres_url) as process:
        _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4
    assert "run 'mcp-sessions db upgrade'" in messages


@pytest.mark.slow
def test_fails_where_a_step_fails(tmp_path: Path) -> None:
    """Where clients may not end sessions, the step that ends one is crossed, and the exit code is 1."""
    with demo(tmp_path, MCP_SESSIONS_HTTP_CLIENT_DELETE="false") as process:
        output, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert re.search("✗ .*DELETE", output)
    assert "Error: the database still has the session" in messages
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.slow
def test_leaves_nothing_behind_when_it_is_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Stopped while its workers start, it ends them and removes its files."""
    with demo(tmp_path) as process:
        itself = psutil.Process(process.pid)
        poll(lambda: len(itself.children()) == 2, seconds=20, waiting_for="two workers")
        workers = itself.children()
        process.send_signal(number)
        _, messages = process.communicate(timeout=20)
        assert process.returncode == code
        assert "Traceback" not in messages
        assert not any(worker.is_running() for worker in workers)
        assert [*tmp_path.iterdir()] == []
