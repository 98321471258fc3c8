"""Refused uses: who tried to use a session of somebody else, without a way to fill the trail."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.audit import refusals as refused
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager, eventually
from tests.support.owners import ACME, MISMATCHES
from tests.support.rows import Rows
from tests.support.trail import Trail, owner_in

pytestmark = WITH_PGBOUNCER

STRANGER = Owner(tenant_id="other", client_id="cli-9", subject="eve")


@pytest.mark.parametrize("verb", ["resume", "resume, every use recorded", "terminate"])
async def test_a_use_by_another_owner_is_recorded(open_manager: OpenManager, trail: Trail, verb: str) -> None:
    """A refused use leaves one event with the session, its owner and the owner that was claimed."""
    settings = {"touch_interval": timedelta(0)} if verb.endswith("recorded") else {}
    manager = await open_manager(**settings)
    session_id = await manager.create_session(**asdict(ACME))
    if verb == "terminate":
        assert await manager.terminate_session(session_id, owner=STRANGER) is False
    else:
        assert await manager.resume_session(session_id, STRANGER) is None
    await trail.has_refused(1)
    created, event = await trail.events(session_id)
    assert (event["kind"], event["actor"], event["is_end"]) == ("refused", "foreign", None)
    assert bytes(event["session_digest"]) == digest_of(session_id)
    assert (owner_in(event), owner_in(event, "claimed_")) == (ACME, STRANGER)
    assert event["session_created_at"] == created["session_created_at"]
    await trail.agrees_with_the_table()


@pytest.mark.parametrize(("owner", "other"), MISMATCHES.values(), ids=MISMATCHES)
async def test_every_difference_counts(manager: SessionManager, trail: Trail, owner: Owner, other: Owner) -> None:
    """Whatever the two owners differ by, the attempt is recorded with the owner that was claimed."""
    session_id = await manager.create_session(**asdict(owner))
    assert await manager.resume_session(session_id, other) is None
    await trail.has_refused(1)
    (event,) = await trail.events(kind="refused")
    assert (owner_in(event), owner_in(event, "claimed_")) == (owner, other)


async def test_the_same_attempt_is_recorded_once(open_manager: OpenManager, trail: Trail) -> None:
    """Attempts by one owner at one session leave one event, however many there are and on whichever workers."""
    workers = [await open_manager() for _ in range(2)]
    session_id = await workers[0].create_session(**asdict(ACME))
    for worker in workers:
        assert await together(*(worker.resume_session(session_id, STRANGER) for _ in range(50))) == [None] * 50
        await trail.has_refused(1)
    # A worker writes in order: once its next refusal is there, it has nothing more to say about the first.
    for worker in workers:
        other = await worker.create_session()
        await worker.resume_session(other, STRANGER)
    await trail.has_refused(3)
    assert len([e for e in await trail.events(session_id) if e["kind"] == "refused"]) == 1


async def test_after_an_hour_the_same_attempt_counts_again(
    manager: SessionManager, engine_settings: dict[str, Any], trail: Trail, rows: Rows
) -> None:
    """An attempt goes unrecorded while a like one is less than an hour old, and is an event of its own from then on."""
    session_id = await manager.create_session(**asdict(ACME))
    for passed, count in ((timedelta(0), 1), (timedelta(minutes=59), 1), (timedelta(minutes=2), 2)):
        await age_events(rows, passed)
        async with SessionManager.open(**engine_settings) as worker:  # one that remembers none
            assert await worker.resume_session(session_id, STRANGER) is None
        assert (await trail.kinds(session_id)).count("refused") == count


async def test_a_clock_put_back_hides_no_attempt(
    manager: SessionManager, engine_settings: dict[str, Any], trail: Trail, rows: Rows
) -> None:
    """An attempt of before the clock was put back, which seems to come yet, is no like one of the last hour."""
    session_id = await manager.create_session(**asdict(ACME))
    for count in (1, 2):
        async with SessionManager.open(**engine_settings) as worker:  # one that remembers none
            assert await worker.resume_session(session_id, STRANGER) is None
        assert (await trail.kinds(session_id)).count("refused") == count
        await age_events(rows, -timedelta(hours=2))


async def test_a_worker_forgets_after_an_hour(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """The worker that recorded an attempt records the same again once the hour is over, and not before."""
    session_id = await manager.create_session(**asdict(ACME))
    for passed, count in ((timedelta(0), 1), (timedelta(minutes=59), 1), (timedelta(minutes=2), 2)):
        await age_events(rows, passed)
        age_notes(manager, passed)
        assert await manager.resume_session(session_id, STRANGER) is None
        await manager._calls._refused.close()
        assert (await trail.kinds(session_id)).count("refused") == count


async def age_events(rows: Rows, by: timedelta) -> None:
    """Make every event older, past the trigger that forbids it."""
    if rows.on_sqlite:
        (trigger,) = await rows.fetch("SELECT sql FROM sqlite_schema WHERE name = 'session_events_append_only'")
        await rows.execute("DROP TRIGGER session_events_append_only")
        await rows.age_all(by, table="session_events")
        await rows.execute(trigger["sql"])
    else:
        await rows.execute("ALTER TABLE session_events DISABLE TRIGGER session_events_append_only")
        await rows.age_all(by, table="session_events")
        await rows.execute("ALTER TABLE session_events ENABLE TRIGGER session_events_append_only")


def age_notes(manager: SessionManager, by: timedelta) -> None:
    """Make older what a worker remembers of refused uses."""
    uses = manager._calls._refused
    uses._minute_began -= by.total_seconds()
    uses._noted = {key: noted - by.total_seconds() for key, noted in uses._noted.items()}


async def test_each_owner_and_each_session_counts(manager: SessionManager, trail: Trail) -> None:
    """Attempts by several owners, and at several sessions, are events of their own."""
    ids = [await manager.create_session(**asdict(ACME)) for _ in range(2)]
    strangers = [STRANGER, Owner(), Owner(tenant_id="acme")]
    await together(*(manager.resume_session(each, stranger) for each in ids for stranger in strangers))
    await trail.has_refused(6)
    claims = {(bytes(e["session_digest"]), owner_in(e, "claimed_")) for e in await trail.events(kind="refused")}
    assert claims == {(digest_of(each), stranger) for each in ids for stranger in strangers}


async def test_an_attacker_cannot_fill_the_trail(
    manager: SessionManager, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker records no more than so many refused uses in a minute; all are refused nevertheless."""
    monkeypatch.setattr(refused, "MOST_A_MINUTE", 7)
    session_id = await manager.create_session(**asdict(ACME))
    strangers = [Owner(subject=str(number)) for number in range(100)]
    answers = await together(*(manager.resume_session(session_id, stranger) for stranger in strangers))
    assert answers == [None] * 100
    await trail.has_refused(7)
    assert await manager.resume_session(session_id, STRANGER) is None
    assert await manager.resume_session(session_id, ACME)
    assert len(await trail.events(kind="refused")) == 7


async def test_the_next_minute_has_its_own_bound(
    manager: SessionManager, trail: Trail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A minute later refused uses are recorded again, as many, and the log tells how many were left out before."""
    monkeypatch.setattr(refused, "MOST_A_MINUTE", 3)
    session_id = await manager.create_session(**asdict(ACME))

    async def attempts(count: int, name: str) -> None:
        await together(*(manager.resume_session(session_id, Owner(subject=f"{name} {n}")) for n in range(count)))

    await attempts(5, "first")
    await trail.has_refused(3)
    age_notes(manager, timedelta(seconds=30))
    await attempts(2, "second")
    assert left_out(caplog) == []
    age_notes(manager, timedelta(seconds=31))
    await attempts(4, "third")
    await trail.has_refused(6)
    assert left_out(caplog) == [4]
    subjects = [str(event["claimed_subject"]).split()[0] for event in await trail.events(kind="refused")]
    assert subjects == ["first"] * 3 + ["third"] * 3


async def test_closing_tells_what_was_left_out(
    engine_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was left out since the last minute began is in the log once the manager is closed, and told once."""
    monkeypatch.setattr(refused, "MOST_A_MINUTE", 3)
    async with SessionManager.open(**engine_settings) as manager:
        session_id = await manager.create_session(**asdict(ACME))
        for number in range(5):
            assert await manager.resume_session(session_id, Owner(subject=str(number))) is None
        assert left_out(caplog) == []
    assert left_out(caplog) == [2]


def left_out(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return how many refused uses the log said were not recorded, line by line."""
    lines = [record for record in caplog.records if vars(record).get("operation") == "refused_uses_left_out"]
    assert all("more refused uses" in line.getMessage() and line.levelname == "WARNING" for line in lines)
    return [vars(line)["count"] for line in lines]


async def test_what_is_no_refusal_is_not_recorded(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """An unknown, an ended and an expired session, and the owner's own use, leave no refused use."""
    ended, expired, mine = [await manager.create_session(**asdict(ACME)) for _ in range(3)]
    await manager.terminate_session(ended)
    await rows.execute(f"UPDATE sessions SET expires_at = last_activity_at WHERE {rows.among([expired])}")
    for session_id in ("unknown", ended, expired):
        assert await manager.resume_session(session_id, STRANGER) is None
        assert await manager.terminate_session(session_id, owner=STRANGER) is False
    assert await manager.resume_session(mine, ACME)
    assert await manager.resume_session(mine, STRANGER) is None
    await trail.has_refused(1)
    (event,) = await trail.events(kind="refused")
    assert bytes(event["session_digest"]) == digest_of(mine)


async def test_a_fault_of_the_trail_is_not_the_callers(
    manager: SessionManager, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a refused use cannot be recorded, its caller hears what he always hears, and the log tells the operator."""
    session_id = await manager.create_session(**asdict(ACME))
    await rows.execute("ALTER TABLE session_events RENAME TO session_events_away")
    assert await manager.resume_session(session_id, STRANGER) is None
    await eventually(lambda: any("could not be recorded" in line for line in caplog.messages), "a line in the log")
    assert await manager.resume_session(session_id, ACME)


async def test_leaving_writes_what_was_noted(engine_settings: dict[str, Any], trail: Trail) -> None:
    """A refused use is in the trail once the manager is closed, at the latest."""
    async with SessionManager.open(**engine_settings) as manager:
        session_id = await manager.create_session(**asdict(ACME))
        assert await manager.resume_session(session_id, STRANGER) is None
    assert await trail.kinds() == ["created", "refused"]
