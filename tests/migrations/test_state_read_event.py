"""The trail's conditions widened in place: every event stays, and every connection sees it, up, down and printed."""

import sqlite3
from contextlib import closing

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.schema.revisions import check_differences, downgrade, upgrade
from mcp_sessions.settings import Settings
from tests.support.migrating import alembic, execute_printed
from tests.support.plain import catalog, rows

BEFORE, AFTER = "0013", "0014"
COLUMNS = "occurred_at, kind, reason, actor, session_digest, session_created_at"
SHOWN = f"""
    INSERT INTO session_events ({COLUMNS})
    SELECT occurred_at, 'state_read', 'shown', 'operator', session_digest, session_created_at
    FROM session_events WHERE kind = 'created'
"""


async def kinds(url: str) -> list[str]:
    """The kinds of all events, in their order."""
    return [row["kind"] for row in await rows(url, "SELECT kind FROM session_events ORDER BY event_id")]


async def test_events_of_the_new_kind_go_and_the_others_stay(database_url: str) -> None:
    """Down, such events are removed, which the earlier schema refuses; up again, they can be recorded."""
    settings = Settings(database_url=database_url)
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session("one")
        session = await manager.get_session_metadata("one")
        assert session is not None
        await manager.show_state(session)
    await downgrade(settings, BEFORE)
    assert await kinds(database_url) == ["created"]
    await upgrade(settings, AFTER)
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.show_state(session)
        await manager.terminate_digest(session.digest)
    assert await kinds(database_url) == ["created", "state_read", "terminated"]
    await check_differences(settings)


async def test_a_connection_that_was_open_before_knows_the_new_conditions(sqlite_url: str) -> None:
    """On SQLite, too, where the definition is edited, nobody goes on with the earlier one."""
    settings = Settings(database_url=sqlite_url)
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session()
    await downgrade(settings, BEFORE)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        with pytest.raises(sqlite3.IntegrityError, match="ck_session_events"):
            connection.execute(SHOWN)
        connection.rollback()
        await upgrade(settings, AFTER)
        connection.execute(SHOWN)
        connection.commit()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        await downgrade(settings, BEFORE)
        with pytest.raises(sqlite3.IntegrityError, match="ck_session_events"):
            connection.execute(SHOWN)


@pytest.mark.slow
async def test_the_printed_sql_does_the_same(sqlite_url: str) -> None:
    """`--sql`, down and up, leaves the same schema and the same events."""
    settings = Settings(database_url=sqlite_url)
    async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
        await manager.create_session()
    schema = await catalog(sqlite_url)
    execute_printed(sqlite_url, alembic("-x", f"url={sqlite_url}", "downgrade", f"{AFTER}:{BEFORE}", "--sql"))
    assert await catalog(sqlite_url) != schema
    execute_printed(sqlite_url, alembic("-x", f"url={sqlite_url}", "upgrade", f"{BEFORE}:{AFTER}", "--sql"))
    assert (await catalog(sqlite_url), await kinds(sqlite_url)) == (schema, ["created"])
