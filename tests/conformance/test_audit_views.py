"""The views for people: the same names and meanings on both engines."""

from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.digests import digest_of, short_digest
from tests.support.owners import ACME
from tests.support.rows import Row, Rows
from tests.support.stories import Life, tell
from tests.support.trail import Trail, moment, owner_in

COLUMNS = {
    "active_sessions": [
        *("session", "tenant_id", "client_id", "issuer", "subject", "opened_at", "last_activity_at", "expires_at"),
        *("age_seconds", "idle_seconds"),
    ],
    "session_history": [
        *("session", "tenant_id", "client_id", "issuer", "subject", "opened_at", "ended_at"),
        *("end_kind", "end_reason", "ended_by", "duration_seconds"),
    ],
    "tenant_activity": [
        *("tenant_id", "day", "opened", "ended", "terminated", "revoked", "expired", "cleared", "deleted", "refused"),
        "open_at_end",
    ],
}


async def of_session(rows: Rows, view: str, session_id: str) -> list[Row]:
    """Return what a view says about one session."""
    return await rows.fetch(f"SELECT * FROM {view} WHERE session = '{short_digest(digest_of(session_id))}'")


async def expire(rows: Rows, session_id: str) -> None:
    """Move a session's expiry into the past, two minutes after its beginning."""
    moved = {"created_at": 300, "last_activity_at": 300, "expires_at": 180, "cleanup_at": 180}
    if rows.on_sqlite:
        changes = [f"{name} = strftime('%Y-%m-%d %H:%M:%f', 'now', '-{s} seconds')" for name, s in moved.items()]
    else:
        changes = [f"{name} = now() - interval '{s} seconds'" for name, s in moved.items()]
    await rows.execute(f"UPDATE sessions SET {', '.join(changes)} WHERE {rows.among([session_id])}")


@pytest.mark.parametrize(("view", "columns"), COLUMNS.items())
async def test_columns(manager: SessionManager, rows: Rows, view: str, columns: list[str]) -> None:
    """A view has the documented columns, in order, and no digest in full."""
    await manager.terminate_session(await manager.create_session(tenant_id="acme"))
    session_id = await manager.create_session(tenant_id="acme")
    row, *_ = await rows.fetch(f"SELECT * FROM {view}")
    assert list(row) == columns
    assert digest_of(session_id).hex() not in repr(await rows.fetch(f"SELECT * FROM {view}"))


async def test_active_sessions(manager: SessionManager, rows: Rows) -> None:
    """The live sessions are there, with owner, times, age and idle time; expired and ended ones are not."""
    live, expired, ended = [await manager.create_session(**asdict(ACME)) for _ in range(3)]
    await expire(rows, expired)
    await manager.terminate_session(ended)
    await rows.age(live, timedelta(minutes=10))
    (shown,) = await rows.fetch("SELECT * FROM active_sessions")
    session = await manager.get_session_metadata(live)
    assert session is not None
    assert (shown["session"], owner_in(shown)) == (session.short_digest, ACME)
    times = [moment(shown[name]) for name in ("opened_at", "last_activity_at", "expires_at")]
    assert times == [session.created_at, session.last_activity_at, session.expires_at]
    assert 600 <= shown["age_seconds"] < 660
    assert 600 <= shown["idle_seconds"] < 660


async def test_history_of_a_live_session(manager: SessionManager, rows: Rows) -> None:
    """A live session has no end, and lasts until now."""
    session_id = await manager.create_session(**asdict(ACME))
    await rows.age(session_id, timedelta(minutes=10))
    (shown,) = await of_session(rows, "session_history", session_id)
    assert owner_in(shown) == ACME
    assert [shown[name] for name in ("ended_at", "end_kind", "end_reason", "ended_by")] == [None] * 4
    assert 600 <= shown["duration_seconds"] < 660


async def test_history_of_an_ended_session(manager: SessionManager, rows: Rows, trail: Trail) -> None:
    """An ended session has one row, with its beginning, its end, why, by whom, and how long it lasted."""
    session_id = await manager.create_session(**asdict(ACME))
    await manager.terminate_session(session_id, reason="left", actor="operator")
    (shown,) = await of_session(rows, "session_history", session_id)
    _, ended = await trail.events(session_id)
    assert owner_in(shown) == ACME
    assert (shown["end_kind"], shown["end_reason"], shown["ended_by"]) == ("terminated", "left", "operator")
    assert shown["opened_at"] == ended["session_created_at"]
    assert abs(moment(shown["ended_at"]) - moment(ended["occurred_at"])) <= timedelta(milliseconds=2)
    assert shown["duration_seconds"] == ended["lifetime_seconds"]


async def test_history_of_an_expired_session(manager: SessionManager, rows: Rows) -> None:
    """A session that expired ended when it did, before and after the cleanup comes by."""
    session_id = await manager.create_session(**asdict(ACME))
    await expire(rows, session_id)
    (before,) = await of_session(rows, "session_history", session_id)
    await manager.cleanup_stale_sessions()
    (after,) = await of_session(rows, "session_history", session_id)
    assert (before["end_kind"], before["ended_by"], after["ended_by"]) == ("expired", None, "cleanup")
    assert before["duration_seconds"] == pytest.approx(120, abs=0.01)
    assert after["duration_seconds"] == pytest.approx(120, abs=0.01)
    assert abs(moment(after["ended_at"]) - moment(before["ended_at"])) <= timedelta(milliseconds=2)


async def test_history_of_an_id_used_again(manager: SessionManager, rows: Rows) -> None:
    """Each life of an id that is used again is a row of its own."""
    for _ in range(2):
        await manager.create_session("again")
        await manager.terminate_session("again")
    await manager.create_session("again")
    kinds = [row["end_kind"] for row in await of_session(rows, "session_history", "again")]
    assert sorted(kinds, key=str) == [None, "terminated", "terminated"]


async def test_activity_of_tenants(manager: SessionManager, rows: Rows) -> None:
    """A day's row counts what was opened and ended, by kind, and how many sessions its end found open."""
    days = {"2026-03-01": (3, 1), "2026-03-02": (0, 1), "2026-03-04": (2, 2)}
    await add_days(rows, "acme", days)
    await add_days(rows, None, {"2026-03-02": (1, 0)})
    for number in range(3):
        await manager.create_session(tenant_id="acme", client_id=str(number))
    await manager.terminate_sessions(tenant_id="acme", client_id="0")
    activity = await rows.fetch("SELECT * FROM tenant_activity ORDER BY tenant_id, day")
    acme = [_counts(row) for row in activity if row["tenant_id"] == "acme"]
    assert acme[:3] == [
        ("2026-03-01", 3, 1, 1, 0, 2),
        ("2026-03-02", 0, 1, 1, 0, 1),
        ("2026-03-04", 2, 2, 2, 0, 1),
    ]
    ((_, *today),) = acme[3:]
    assert today == [3, 1, 0, 1, 3]
    assert [_counts(row) for row in activity if row["tenant_id"] is None] == [("2026-03-02", 1, 0, 0, 0, 1)]


def _counts(row: Row) -> tuple[Any, ...]:
    return (str(row["day"]), *(row[name] for name in ("opened", "ended", "terminated", "revoked", "open_at_end")))


async def add_days(rows: Rows, tenant: str | None, days: dict[str, tuple[int, int]]) -> None:
    """Add sessions of a tenant that were opened and terminated on some days; those not ended have a row."""
    opened = [datetime.fromisoformat(f"{day} 10:00+00:00") for day, (count, _) in days.items() for _ in range(count)]
    ended = [datetime.fromisoformat(f"{day} 23:30+00:00") for day, (_, count) in days.items() for _ in range(count)]
    lives = [
        Life(f"{tenant}-{number}", Owner(tenant), begun, over)
        for number, (begun, over) in enumerate(zip_longest(opened, ended))
    ]
    await tell(rows, lives)
