"""What ``mcp_sessions`` offers by itself, and what it imports for it."""

import subprocess
import sys

import pytest

import mcp_sessions


def imported_by(statement: str) -> set[str]:
    """Return the names of the modules that a statement imports in a new process."""
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_manager_imports_nothing_of_http() -> None:
    """Who uses the manager alone imports neither Starlette nor the HTTP layer."""
    assert not {"starlette", "mcp", "mcp_sessions.asgi"} & imported_by("from mcp_sessions import SessionManager, Owner")


def test_durable_sessions_come_when_asked_for() -> None:
    """``from mcp_sessions import DurableSessions`` is the class of the HTTP layer, and is announced."""
    assert "mcp_sessions.asgi" in imported_by("from mcp_sessions import DurableSessions")
    assert mcp_sessions.DurableSessions.__module__.startswith("mcp_sessions.asgi")
    assert "DurableSessions" in mcp_sessions.__all__


def test_everything_announced_is_there() -> None:
    """Each name of ``__all__`` can be imported, and no other one is made up."""
    assert all(hasattr(mcp_sessions, name) for name in mcp_sessions.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'DurableSession'"):
        _ = mcp_sessions.DurableSession  # type: ignore[attr-defined]  # the type checker says so, too
