"""SQLite's trail made anew with numbers that are given once: what the copy keeps, and what it leaves out."""

import sqlite3
from contextlib import closing

import pytest

from mcp_sessions import Handshake, SessionManager
from mcp_sessions.db.schema.revisions import check_differences, downgrade, upgrade
from mcp_sessions.digests import digest_of
from mcp_sessions.settings import Settings
from tests.support.migrating import alembic, execute_printed
from tests.support.plain import Row, catalog, execute, rows

BEFORE, AFTER = "0006", "0007"


@pytest.fixture
def settings(sqlite_url: str) -> Settings:
    """The settings of the test's database."""
    return Settings(database_url=sqlite_url)


async def events(url: str) -> list[Row]:
    """Return the trail in the order of its numbers."""
    return await rows(url, "SELECT * FROM session_events ORDER BY event_id")


async def test_every_event_keeps_its_number(settings: Settings, sqlite_url: str) -> None:
    """Up and down again, each event is there as it was, gaps included, and new ones come behind the last."""
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        for _ in range(4):
            await manager.terminate_session(await manager.create_session(tenant_id="acme"))
    await downgrade(settings, BEFORE)
    await execute(sqlite_url, "DELETE FROM session_events WHERE event_id % 3 = 1")
    before = await events(sqlite_url)
    assert len(before) > 3
    await upgrade(settings, AFTER)
    assert await events(sqlite_url) == before
    await downgrade(settings, BEFORE)
    assert await events(sqlite_url) == before
    await upgrade(settings)
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session()
    *old, new = await events(sqlite_url)
    assert old == before
    assert new["event_id"] > old[-1]["event_id"]


async def test_what_operators_added_stays(settings: Settings, sqlite_url: str) -> None:
    """Indexes and triggers of others on the trail are there after the copy, and work."""
    added = """
        CREATE TABLE seen (kind TEXT, share TEXT);
        CREATE INDEX theirs ON session_events (client_id) WHERE client_id LIKE 'a%';
        CREATE TRIGGER their_trigger AFTER INSERT ON session_events
        BEGIN INSERT INTO seen VALUES (NEW.kind, '100 %s :x'); END;
    """
    await downgrade(settings, BEFORE)
    await execute(sqlite_url, added)
    before = [line for line in await catalog(sqlite_url) if "their" in line]
    assert len(before) == 2
    await upgrade(settings)
    assert [line for line in await catalog(sqlite_url) if "their" in line] == before
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session()
    assert await rows(sqlite_url, "SELECT * FROM seen") == [{"kind": "created", "share": "100 %s :x"}]


async def test_handshakes_without_a_session_go(settings: Settings, sqlite_url: str) -> None:
    """What deletes by hand have left of handshakes is removed, and no other."""
    kept = Handshake("2025-06-18", "{}")
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session("kept", handshake=kept)
        await manager.create_session("deleted", handshake=kept)
    await downgrade(settings, BEFORE)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as shell:
        shell.execute("DELETE FROM sessions WHERE session_digest = ?", (digest_of("deleted"),))
        assert shell.execute("SELECT count(*) FROM session_handshakes").fetchone() == (2,)
    await upgrade(settings)
    assert await rows(sqlite_url, "SELECT count(*) AS left FROM session_handshakes") == [{"left": 1}]
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        assert await manager.get_handshake(digest_of("kept")) == kept


@pytest.mark.slow
async def test_the_printed_sql_does_the_same(settings: Settings, sqlite_url: str) -> None:
    """`--sql`, up and down, run by SQLite's own parser on a filled file, keeps the trail and leaves the same schema."""
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.terminate_session(await manager.create_session(tenant_id="acme"))
    await downgrade(settings, AFTER)
    before, schema = await events(sqlite_url), await catalog(sqlite_url)
    execute_printed(sqlite_url, alembic("-x", f"url={sqlite_url}", "downgrade", f"{AFTER}:{BEFORE}", "--sql"))
    assert await events(sqlite_url) == before
    execute_printed(sqlite_url, alembic("-x", f"url={sqlite_url}", "upgrade", f"{BEFORE}:{AFTER}", "--sql"))
    assert (await events(sqlite_url), await catalog(sqlite_url)) == (before, schema)
    await upgrade(settings)
    await check_differences(settings)
