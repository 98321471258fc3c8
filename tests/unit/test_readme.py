"""The examples of the README run as they stand."""

from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from mcp_sessions.asgi import DurableSessions
from tests.support.pages import Page

PAGE = Page("README.md")


def test_the_one_line_wraps_an_app() -> None:
    """The example for server authors makes an app with durable sessions."""
    assert isinstance(PAGE.run_block_with("DurableSessions")["app"], DurableSessions)


async def test_the_sessions_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the manager creates a session, resumes it and ends it, in a file of its own."""
    monkeypatch.chdir(tmp_path)
    imports, _, body = PAGE.blocks("python")[1].rpartition("\n\n")
    names: dict[str, Any] = {}
    function = f"{imports}\n\nasync def example():\n{indent(body, '    ')}\n        return session, sessions\n"
    exec(function, names)  # noqa: S102 - our own page
    session, _ = await names["example"]()
    assert session.owner.tenant_id == "acme"
    assert (tmp_path / "sessions.db").exists()
