"""Logs: structured fields, and never a session id, at any level, by any library."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import Handshake, McpSessionsError, Owner, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.rows import Rows

DAY = timedelta(days=1)


@pytest.fixture
def ours(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The records of this package at INFO and above."""
    caplog.set_level(logging.INFO, "mcp_sessions")
    return caplog


def fields(logs: pytest.LogCaptureFixture, operation: str) -> dict[str, Any]:
    """The fields of the one record of an operation."""
    (record,) = (each for each in logs.records if each.__dict__.get("operation") == operation)
    assert record.name == "mcp_sessions"
    assert record.getMessage()
    return record.__dict__


def short(session_id: str) -> str:
    """What logs show of a session."""
    return digest_of(session_id).hex()[:12]


async def test_created(manager: SessionManager, ours: pytest.LogCaptureFixture) -> None:
    """A creation is logged with the short digest, tenant and client."""
    session_id = await manager.create_session(tenant_id="acme", client_id="cli-1")
    logged = fields(ours, "session_created")
    assert (logged["session"], logged["tenant_id"], logged["client_id"]) == (short(session_id), "acme", "cli-1")
    assert short(session_id) in logged["message"]


async def test_a_refused_creation_is_not_logged_as_one(manager: SessionManager, ours: pytest.LogCaptureFixture) -> None:
    """Where nothing was created, nothing is said to have been."""
    await manager.create_session("taken")
    with pytest.raises(McpSessionsError):
        await manager.create_session("taken")
    fields(ours, "session_created")


@pytest.mark.parametrize("touch_interval", [timedelta(0), timedelta(minutes=1)], ids=["every use", "interval"])
async def test_expired_on_use(
    open_manager: OpenManager, rows: Rows, ours: pytest.LogCaptureFixture, touch_interval: timedelta
) -> None:
    """Who comes with an expired session leaves a record of it; an unknown id does not."""
    manager = await open_manager(touch_interval=touch_interval)
    session_id = await manager.create_session(tenant_id="acme", client_id="cli-1")
    await rows.age(session_id, DAY)
    assert await manager.resume_session(session_id, Owner("acme", "cli-1")) is None
    assert await manager.resume_session("unknown", Owner("acme", "cli-1")) is None
    logged = fields(ours, "session_expired")
    assert (logged["session"], logged["tenant_id"], logged["client_id"]) == (short(session_id), "acme", "cli-1")


async def test_terminated(manager: SessionManager, ours: pytest.LogCaptureFixture) -> None:
    """An end is logged once, with its reason; an end of nothing is not."""
    session_id = await manager.create_session(tenant_id="acme", client_id="cli-1")
    await manager.terminate_session(session_id, owner=Owner(), reason="not this one")
    await manager.terminate_session(session_id, reason="logged out")
    await manager.terminate_session(session_id)
    logged = fields(ours, "session_terminated")
    assert (logged["session"], logged["reason"]) == (short(session_id), "logged out")
    assert (logged["tenant_id"], logged["client_id"]) == ("acme", "cli-1")


async def test_many_terminated(manager: SessionManager, ours: pytest.LogCaptureFixture) -> None:
    """A bulk end is logged with its filters, its reason and its count."""
    await together(*(manager.create_session(tenant_id="acme") for _ in range(3)))
    await manager.terminate_sessions(tenant_id="acme", reason="offboarded")
    logged = fields(ours, "sessions_terminated")
    assert (logged["count"], logged["tenant_id"], logged["reason"]) == (3, "acme", "offboarded")
    assert "client_id" not in logged


async def test_cleaned_up(manager: SessionManager, rows: Rows, ours: pytest.LogCaptureFixture) -> None:
    """A cleanup run is logged with the rows before and after, and how many it removed."""
    await together(*(manager.create_session() for _ in range(3)))
    await rows.age_all(DAY)
    await manager.create_session()
    await manager.cleanup_stale_sessions()
    logged = fields(ours, "cleanup_run")
    assert (logged["before"], logged["after"], logged["removed"]) == (4, 1, 3)


async def test_cleared(manager: SessionManager, ours: pytest.LogCaptureFixture) -> None:
    """The emergency exit is a warning with its count."""
    await together(*(manager.create_session() for _ in range(3)))
    await manager.clear_all_sessions()
    logged = fields(ours, "sessions_cleared")
    assert (logged["count"], logged["levelno"]) == (3, logging.WARNING)


async def test_the_schedule(engine_settings: dict[str, Any], ours: pytest.LogCaptureFixture) -> None:
    """The start of the schedule and its stop are logged, with the interval."""
    async with SessionManager.open(**engine_settings, cleanup_interval=timedelta(minutes=7)):
        assert fields(ours, "cleanup_started")["interval"] == "0:07:00"
        assert not [each for each in ours.records if each.__dict__.get("operation") == "cleanup_stopped"]
    fields(ours, "cleanup_stopped")


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every record of every library, down to DEBUG and below."""
    names = ["sqlalchemy.engine", "sqlalchemy.pool", "aiosqlite", "asyncpg", "asyncio", "alembic"]
    loggers = [logging.getLogger(name) for name in (None, *names, "mcp_sessions")]
    levels = [each.level for each in loggers]
    caplog.set_level(1)
    for each in loggers:
        each.setLevel(1)
    yield caplog
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


@WITH_PGBOUNCER
async def test_no_session_id_anywhere(
    open_manager: OpenManager, rows: Rows, everything: pytest.LogCaptureFixture
) -> None:
    """Through whole lives and all their errors, no record, field, argument or traceback holds a session id."""
    asyncio.get_running_loop().set_debug(True)
    manager = await open_manager(touch_interval=timedelta(0))
    given, owner = "a-session-id-given-by-the-caller", Owner("acme", "cli-1")
    ids = [given, await manager.create_session(tenant_id="acme", client_id="cli-1"), *["x" * 40 + "y" * 217]]
    await manager.create_session(given, tenant_id="acme", client_id="cli-1", handshake=Handshake("2025-11-25", "{}"))
    calls: list[Any] = [manager.list_sessions(), manager.cleanup_stale_sessions()]
    for session_id in ids:
        calls += [
            manager.create_session(session_id),
            manager.resume_session(session_id, owner),
            manager.resume_session(session_id, Owner()),
            manager.is_session_valid(session_id),
            manager.touch_session(session_id),
        ]
    failures = [each for each in await asyncio.gather(*calls, return_exceptions=True) if isinstance(each, Exception)]
    assert len(failures) == 2 + 5
    await rows.age(ids[1], DAY)
    await manager.resume_session(ids[1], owner)
    await manager.terminate_session(given)
    await rows.execute("ALTER TABLE sessions RENAME TO elsewhere")
    for call in (manager.touch_session(ids[1]), manager.create_session(given), manager.is_session_valid(given)):
        with pytest.raises(McpSessionsError) as caught:
            await call
        failures.append(caught.value)
    for failure in failures:
        logging.getLogger("caller").error("failed", exc_info=failure)
    assert {"mcp_sessions", "caller", "sqlalchemy.engine.Engine"} <= {record.name for record in everything.records}
    told = everything.text + repr([record.__dict__ for record in everything.records])
    assert not [session_id for session_id in ids if session_id in told or session_id.encode().hex() in told]
    assert digest_of(given).hex()[:12] in told
