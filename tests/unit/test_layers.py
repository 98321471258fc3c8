"""The contracts of the layers hold for modules that nobody has told them of."""

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


def test_a_module_without_a_place_breaks_a_contract(copy: Path) -> None:
    """A new module beside the others has to be given its place among the layers."""
    (copy / "newcomer.py").touch()
    assert "newcomer" in breaches(copy)
