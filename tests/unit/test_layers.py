"""The contracts of the layers hold for modules that nobody has told them of."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, to plant imports in."""
    return shutil.copytree(ROOT / "src" / "mcp_sessions", tmp_path / "mcp_sessions")


def breaches(copy: Path) -> str:
    """Return what lint-imports says of a copy; nothing where all contracts are kept."""
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        (program, "--no-logo", "--no-cache", "--config", ROOT / "pyproject.toml"),
        cwd=copy.parent,
        env=os.environ | {"PYTHONPATH": str(copy.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode in {0, 1}, result.stderr
    assert "Contracts: " in result.stdout, result.stdout
    return result.stdout if result.returncode else ""


def test_the_package_keeps_its_contracts(copy: Path) -> None:
    """What stands there breaks no contract."""
    assert breaches(copy) == ""


PLANTED = [
    ("asgi.new", "import sqlalchemy", "mcp_sessions.asgi.new -> sqlalchemy"),
    ("asgi.layer", "from aiosqlite import connect", "mcp_sessions.asgi.layer -> aiosqlite"),
    ("cli.new.deep", "import sqlite3", "mcp_sessions.cli.new.deep -> sqlite3"),
    ("manager", "def late():\n    import asyncpg", "mcp_sessions.manager -> asyncpg"),
    ("new", "import alembic", "mcp_sessions.new -> alembic"),
    ("db.statements.new", "import starlette", "mcp_sessions.db.statements.new -> starlette"),
    ("db.new", "import mcp_sessions.manager", "mcp_sessions.db.new -> mcp_sessions.manager"),
    ("asgi.newest", "import opentelemetry.trace", "mcp_sessions.asgi.newest -> opentelemetry"),
    ("asgi.newer", "import typer", "mcp_sessions.asgi.newer -> typer"),
    ("asgi.types", "from mcp_sessions.db import tables", "mcp_sessions.asgi.types -> mcp_sessions.db.tables"),
    ("mcp.new", "import mcp_sessions.db.backend", "mcp_sessions.mcp.new -> mcp_sessions.db.backend"),
    ("state.new", "import mcp_sessions.db.statements", "mcp_sessions.state.new -> mcp_sessions.db.statements"),
    ("db.newest", "import fastmcp", "mcp_sessions.db.newest -> fastmcp"),
    ("state.newest", "import mcp_types", "mcp_sessions.state.newest -> mcp_types"),
]


def test_planted_imports_break_contracts(copy: Path) -> None:
    """Imports that do not belong there are found, be it in modules that were there or in new ones."""
    for module, code, _ in PLANTED:
        file = copy.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        with file.open("a") as planted:
            planted.write(f"\n{code}\n")
    told = breaches(copy)
    assert [breach for *_, breach in PLANTED if breach not in told] == []


def test_no_end_is_trusted_for_want_of_an_owner() -> None:
    """What servers meet names the owner where it ends a session by its id, and never touches one as trusted code."""
    files = [ROOT / "src" / "mcp_sessions" / name for name in ("asgi", "mcp", "fastmcp.py", "handles.py")]
    sources = [source for file in files for source in (file.rglob("*.py") if file.is_dir() else [file])]
    calls = [
        call
        for source in sources
        for call in ast.walk(ast.parse(source.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in {"terminate_session", "touch_session"}
    ]
    assert calls
    assert all("owner" in {argument.arg for argument in call.keywords} for call in calls)


def test_a_module_without_a_place_breaks_a_contract(copy: Path) -> None:
    """A new module beside the others has to be given its place among the layers."""
    (copy / "newcomer.py").touch()
    assert "newcomer" in breaches(copy)
