"""`docs/how-to/back-up.md`: its backup is whole, and its sizes are about right."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path

from mcp_sessions import SessionManager
from mcp_sessions.digests import mint_session_id
from tests.support.pages import Page

PAGE = Page("docs/how-to/back-up.md")


def names() -> dict[str, object]:
    """Run the page's Python, one block after the other, and return the names that it defines."""
    found: dict[str, object] = {"__name__": "example"}
    for each in PAGE.blocks("python"):
        exec(compile(each, PAGE.name, "exec"), found)  # noqa: S102 - our own page
    return found


async def test_a_backup_of_a_database_in_use_holds_what_was_acknowledged(tmp_path: Path) -> None:
    """A session that is live as the backup is taken is live in it."""
    back_up = names()["back_up"]
    assert callable(back_up)
    session_id = mint_session_id()
    async with SessionManager.open(f"sqlite:///{tmp_path}/s.db", scheduled_cleanup=False) as sessions:
        await sessions.create_session(session_id, tenant_id="acme")
        await asyncio.to_thread(back_up, f"{tmp_path}/s.db", f"{tmp_path}/copy.db")
        await sessions.terminate_session(session_id, reason="terminated", actor="operator")
    url = f"sqlite:///{tmp_path}/copy.db"
    async with SessionManager.open(url, scheduled_cleanup=False, idle_timeout=timedelta(hours=1)) as restored:
        assert await restored.is_session_valid(session_id)


async def test_the_sizes_of_the_page_are_those_of_this_version() -> None:
    """What the page prints is, within a fifth, what a smaller measurement gives."""
    measure = names()["sizes"]
    assert callable(measure)
    (shown,) = PAGE.blocks("text")
    for printed, measured in zip(re.findall(r"(\d+) bytes", shown), await measure(1_000), strict=True):
        assert 0.8 * measured < int(printed) < 1.2 * measured
