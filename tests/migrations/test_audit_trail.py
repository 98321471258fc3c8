"""The audit trail through upgrades and downgrades: it begins complete, is never lost, and closes its own gaps."""

import asyncio

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.schema.revisions import check_differences, downgrade, upgrade
from mcp_sessions.settings import Settings
from tests.support.managers import ON_POSTGRES, eventually_in_sql
from tests.support.rows import WAITING, Rows
from tests.support.trail import Trail

BEFORE = "0003"


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The settings of the test's database."""
    return Settings(database_url=database_url)


@pytest.fixture
def rows(database_url: str) -> Rows:
    """The rows of the test's database."""
    return Rows(database_url)


@pytest.fixture
def trail(rows: Rows) -> Trail:
    """The audit trail of the test's database."""
    return Trail(rows)


async def insert_session(rows: Rows, number: int) -> None:
    """Store a session as an earlier version of the package did."""
    hexadecimal = f"{number:02x}" * 32
    if rows.on_sqlite:
        values = f"x'{hexadecimal}', 'acme', '2026-01-01 10:00:00.000', '2026-01-01 10:05:00.000'"
        expiry = "'2999-01-01 10:35:00.000'"
    else:
        values = rf"'\x{hexadecimal}', 'acme', '2026-01-01 10:00:00+00', '2026-01-01 10:05:00+00'"
        expiry = "'2999-01-01 10:35:00+00'"
    await rows.execute(
        "INSERT INTO sessions (session_digest, tenant_id, created_at, last_activity_at, expires_at, cleanup_at) "
        f"VALUES ({values}, {expiry}, {expiry})"
    )


async def test_sessions_from_before_have_their_beginning(settings: Settings, rows: Rows, trail: Trail) -> None:
    """An upgrade records each session there is as created when it was, and says that it did so afterwards."""
    await downgrade(settings, BEFORE)
    for number in range(3):
        await insert_session(rows, number)
    await upgrade(settings)
    events = await trail.events()
    assert [(event["kind"], event["reason"], event["tenant_id"]) for event in events] == [
        ("created", "created before the audit trail", "acme")
    ] * 3
    assert all(event["occurred_at"] == event["session_created_at"] for event in events)
    await trail.agrees_with_the_table()


@ON_POSTGRES
async def test_an_upgrade_waits_for_a_sweep_and_not_the_other_way_round(settings: Settings, rows: Rows) -> None:
    """A sweep in flight writes to sessions first and then to its run: an upgrade locks them in the same order."""
    await downgrade(settings, BEFORE)
    sweep = await rows._postgres()
    try:
        await sweep.execute("BEGIN; DELETE FROM sessions")
        upgrading = asyncio.ensure_future(upgrade(settings))

        async def is_waiting() -> bool:
            return upgrading.done() or bool(await rows.value(WAITING))

        await eventually_in_sql(is_waiting, "the upgrade to wait for the sweep")
        await sweep.execute("SET LOCAL lock_timeout = '2s'; UPDATE cleanup_runs SET sessions_removed = 1; COMMIT")
    finally:
        await sweep.close(timeout=10)
    await upgrading
    await check_differences(settings)


async def test_a_downgrade_keeps_the_trail(settings: Settings, rows: Rows, trail: Trail) -> None:
    """The trail survives a downgrade and an upgrade, event by event, and goes on where it stopped."""
    async with SessionManager.open_with(settings) as manager:
        await manager.terminate_session(await manager.create_session(tenant_id="acme"))
        await manager.create_session(tenant_id="acme")
    before = await trail.events()
    await downgrade(settings, BEFORE)
    assert await rows.count("session_events_archived") == 3
    await upgrade(settings)
    assert await trail.events() == before
    async with SessionManager.open_with(settings) as manager:
        assert await manager.terminate_sessions(tenant_id="acme") == 1
    assert (await trail.events())[:3] == before
    assert await trail.kinds() == ["created", "terminated", "created", "revoked"]
    await trail.agrees_with_the_table()


async def test_an_upgrade_closes_the_gap(settings: Settings, rows: Rows, trail: Trail) -> None:
    """Sessions that began or ended while the trail was off get their events, which say so."""
    await insert_session(rows, 1)
    await insert_session(rows, 2)
    await downgrade(settings, BEFORE)
    first = "x'01'" if rows.on_sqlite else r"'\x01'"
    await rows.execute(f"DELETE FROM sessions WHERE substr(session_digest, 1, 1) = {first}")
    await insert_session(rows, 3)
    await upgrade(settings)
    gap = (await trail.events())[2:]
    assert [(bytes(event["session_digest"])[0], event["kind"], event["reason"]) for event in gap] == [
        (3, "created", "created before the audit trail"),
        (1, "deleted", "ended while the audit trail was off"),
    ]
    await trail.agrees_with_the_table()


async def test_the_trail_outlives_the_sessions_table(settings: Settings, rows: Rows, trail: Trail) -> None:
    """After a downgrade of everything, which drops the sessions, the trail is there, and a new upgrade ends them."""
    await insert_session(rows, 1)
    await downgrade(settings, "base")
    assert await rows.count("session_events_archived") == 1
    await upgrade(settings)
    assert await trail.kinds() == ["created", "deleted"]
    await trail.agrees_with_the_table()
