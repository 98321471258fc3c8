"""The roles of ``db roles`` on Postgres: what each may do, and all that it is refused, by real logins."""

import base64
import logging
from datetime import timedelta

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.db.roles import VIEWS
from mcp_sessions.db.schema.revisions import check_differences, upgrade
from mcp_sessions.records.events import CREATED_BY_TOOL
from mcp_sessions.records.sessions import Handshake
from mcp_sessions.settings import Settings
from tests.support.roles import TABLES, Roles, refused
from tests.support.rows import Rows
from tests.support.states import CALLS
from tests.support.trail import Trail

OLD_EVENT = """
    INSERT INTO session_events (occurred_at, kind, reason, actor, session_digest, session_created_at, is_end)
    SELECT moment, 'terminated', 'old', 'owner', sha256('old'), moment, true
    FROM (SELECT now() - interval '500 days' AS moment) AS long_ago
"""
OLD_RUN = """
    INSERT INTO cleanup_runs (run_id, worker, started_at, held_until_at, ended_at, sessions_removed)
    SELECT 'old', 'worker', moment, moment, moment, 0 FROM (SELECT now() - interval '500 days' AS moment) AS long_ago
"""


@pytest.fixture(params=["postgres"])
def database_url(postgres_url: str) -> str:
    """The URL of a fresh, migrated Postgres database: nothing else has roles."""
    return postgres_url


async def whole_lives(url: str, schema: str | None = None) -> None:
    """Do all that a manager can do, as whoever the URL names."""
    every_use = timedelta(0)
    async with SessionManager.open(url, database_schema=schema, touch_interval=every_use) as manager:
        acme = Owner("acme", "cli")
        ids = [
            await manager.create_session(tenant_id="acme", client_id="cli", handshake=Handshake("2025-11-25", "{}"))
            for _ in range(5)
        ]
        assert await manager.resume_session(ids[0], acme) is not None
        assert await manager.resume_session(ids[0], Owner("globex")) is None
        assert await manager.touch_session(ids[1])
        assert len(await manager.list_sessions(tenant_id="acme")) == 5
        assert await manager.get_active_session_count() == 5
        assert await manager.terminate_session(ids[0], owner=acme)
        place = f'"{schema}".' if schema else ""
        await Rows(url).execute(
            f"UPDATE {place}sessions SET expires_at = created_at, cleanup_at = created_at "
            f"WHERE {Rows(url).among([ids[1]])}"
        )
        assert await manager.cleanup_stale_sessions() == 1
        assert await manager.terminate_sessions(tenant_id="acme") == 3
        await manager.create_session()
        assert await manager.clear_all_sessions() == 1


async def test_an_application_serves_sessions(roles: Roles, trail: Trail) -> None:
    """A manager whose login has the application's role alone can do everything, and all of it is recorded."""
    url = await roles.login("application")
    await whole_lives(url)
    await check_differences(Settings(database_url=url))
    kinds = await trail.kinds()
    assert {kind: kinds.count(kind) for kind in sorted(set(kinds))} == {
        "created": 6,
        "terminated": 1,
        "expired": 1,
        "revoked": 3,
        "cleared": 1,
        "refused": 1,
    }
    await trail.agrees_with_the_table()


async def test_an_application_keeps_state(roles: Roles) -> None:
    """The application's role alone may keep state, values and sessions by handle, seal them, and clean up."""
    key = base64.b64encode(bytes(32)).decode()
    async with SessionManager.open(await roles.login("application"), encryption_keys=key) as manager:
        session_id = await manager.create_session(reason=CREATED_BY_TOOL)
        session = await manager.resume_session(session_id, Owner())
        assert session is not None
        for call in CALLS.values():
            await call(manager.state(session))
        await manager.key_values.put("tokens", "key", "{}", seconds=60)
        assert await manager.key_values.get("tokens", "key") is not None
        assert await manager.found_by_handle([session]) == {session.digest}
        assert await manager.reencrypt() == 0
        await manager.cleanup_stale_sessions()
        assert await manager.terminate_session(session_id)


async def test_an_application_cannot_rewrite_the_trail(roles: Roles, manager: SessionManager, trail: Trail) -> None:
    """The application's role may neither change nor delete nor truncate events, nor lift what forbids it."""
    await manager.create_session(tenant_id="acme")
    before = await trail.events()
    await refused(
        await roles.login("application"),
        "UPDATE session_events SET reason = 'another'",
        "DELETE FROM session_events",
        "TRUNCATE session_events",
        "TRUNCATE sessions",
        "DELETE FROM cleanup_runs",
        "UPDATE mcp_sessions_alembic_version SET version_num = '0001'",
        "ALTER TABLE session_events DISABLE TRIGGER ALL",
        "ALTER TABLE sessions DISABLE TRIGGER ALL",
        "DROP TABLE session_events",
        f'SET ROLE "{roles.prefix}_cleaner"',
    )
    assert await trail.events() == before


async def test_a_cleanup_without_the_right_skips_the_retention(
    roles: Roles, trail: Trail, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """An application's cleanup run is a good one that removes sessions, leaves old events and runs, and says so."""
    await rows.execute(OLD_EVENT)
    await rows.execute(OLD_RUN)
    async with SessionManager.open(await roles.login("application")) as manager:
        await manager.create_session()
        await rows.execute("UPDATE sessions SET expires_at = created_at, cleanup_at = created_at")
        with caplog.at_level(logging.INFO, logger="mcp_sessions"):
            assert await manager.cleanup_stale_sessions() == 1
    assert await trail.kinds() == ["terminated", "created", "expired"]
    runs = await rows.fetch("SELECT sessions_removed, events_removed, error FROM cleanup_runs ORDER BY started_at")
    assert [tuple(run.values()) for run in runs] == [(0, 0, None), (1, 0, None)]
    assert any("may not delete" in record.getMessage() for record in caplog.records)


async def test_a_cleaner_carries_out_the_retention(roles: Roles, trail: Trail, rows: Rows) -> None:
    """A login with the cleaner's role is an application whose cleanup removes old events and runs as well."""
    await rows.execute(OLD_EVENT)
    await rows.execute(OLD_RUN)
    url = await roles.login("cleaner")
    async with SessionManager.open(url) as manager:
        await manager.cleanup_stale_sessions()
    assert await trail.events() == []
    assert [tuple(run.values()) for run in await rows.fetch("SELECT events_removed, error FROM cleanup_runs")] == [
        (1, None)
    ]
    await whole_lives(url)


async def test_a_cleaner_cannot_change_events(roles: Roles) -> None:
    """The cleaner's role may delete events, and neither change nor truncate them."""
    await refused(
        await roles.login("cleaner"), "UPDATE session_events SET reason = 'another'", "TRUNCATE session_events"
    )


async def test_an_auditor_reads_the_views(roles: Roles, manager: SessionManager) -> None:
    """The auditor's role reads every view, whole, with no right on the tables behind it."""
    for tenant_id in ("acme", "globex"):
        await manager.create_session(tenant_id=tenant_id)
    auditor = Rows(await roles.login("auditor"))
    for view in VIEWS:
        assert {row["tenant_id"] for row in await auditor.fetch(f"SELECT * FROM {view}")} == {"acme", "globex"}


async def test_an_auditor_does_nothing_else(roles: Roles) -> None:
    """The auditor's role is refused every table, and every change to a view."""
    await refused(
        await roles.login("auditor"),
        *(f"SELECT * FROM {table}" for table in TABLES),
        *(f"DELETE FROM {table}" for table in TABLES),
        "INSERT INTO sessions DEFAULT VALUES",
        "UPDATE active_sessions SET tenant_id = 'other'",
        "DELETE FROM active_sessions",
        "SELECT nextval('session_events_event_id_seq')",
    )


async def test_roles_in_a_schema_of_ones_own(empty_postgres_url: str) -> None:
    """Where the tables have a schema of their own, the roles work there."""
    settings = Settings(database_url=empty_postgres_url, database_schema="Mixed_Case")
    await upgrade(settings)
    roles = Roles(empty_postgres_url, schema="Mixed_Case")
    try:
        await roles.make()
        url = await roles.login("application")
        await whole_lives(url, "Mixed_Case")
        await refused(url, 'DELETE FROM "Mixed_Case".session_events')
        history = await Rows(await roles.login("auditor")).fetch('SELECT * FROM "Mixed_Case".session_history')
        tenants = [row["tenant_id"] for row in history]
        assert (tenants.count("acme"), tenants.count(None)) == (5, 1)
        acme = Rows(await roles.make_tenant_auditor("acme"))
        history = await acme.fetch('SELECT tenant_id FROM "Mixed_Case".session_history')
        assert [row["tenant_id"] for row in history] == ["acme"] * 5
    finally:
        await roles.drop()
