"""The audit trail: each transition of a session leaves one row, in the transaction that did it."""

from dataclasses import asdict
from datetime import timedelta
from itertools import chain

import pytest

from mcp_sessions import InvalidInputError, Owner, SessionExistsError, SessionManager
from mcp_sessions.digests import digest_of
from mcp_sessions.records.sessions import Handshake
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.owners import ACME
from tests.support.rows import Row, Rows
from tests.support.trail import Trail, moment, owner_in

pytestmark = WITH_PGBOUNCER

HANDSHAKE = Handshake("2025-11-25", "{}")


async def test_a_creation_is_recorded(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """A new session leaves one event: created, by its owner, with digest, owner and time of the row."""
    session_id = await manager.create_session(**asdict(ACME))
    (event,) = await trail.events()
    row = await rows.session(session_id)
    assert row is not None
    assert (event["kind"], event["actor"]) == ("created", "owner")
    assert bytes(event["session_digest"]) == digest_of(session_id)
    assert owner_in(event) == ACME
    assert event["occurred_at"] == event["session_created_at"] == row["created_at"]
    assert (bool(event["is_end"]), event["lifetime_seconds"]) == (False, None)


async def test_a_refused_creation_is_not_recorded(manager: SessionManager, trail: Trail) -> None:
    """Of creations with one id, at once and later, only the one that stored the session leaves an event."""
    calls = [manager.create_session("same", tenant_id=str(number)) for number in range(5)]
    outcomes = await together(*(_outcome(call) for call in calls))
    assert sorted(map(str, outcomes)) == sorted(["same", *[str(SessionExistsError())] * 4])
    with pytest.raises(SessionExistsError):
        await manager.create_session("same", **asdict(ACME))
    assert await trail.kinds() == ["created"]


async def _outcome(call: object) -> object:
    try:
        return await call  # type: ignore[misc]  # a coroutine that may fail
    except SessionExistsError as error:
        return error


@pytest.mark.parametrize(
    ("given", "actor"),
    [({}, "application"), ({"owner": ACME}, "owner"), ({"actor": "operator"}, "operator")],
    ids=["trusted code", "its owner", "an operator"],
)
async def test_a_termination_is_recorded(
    manager: SessionManager, trail: Trail, given: dict[str, object], actor: str
) -> None:
    """An ended session leaves one end, with the reason given and who did it, however often it is ended."""
    session_id = await manager.create_session(**asdict(ACME))
    calls = [manager.terminate_session(session_id, reason="left", **given) for _ in range(4)]  # type: ignore[arg-type]  # as parametrized
    assert sorted(await together(*calls)) == [False, False, False, True]
    assert await manager.terminate_session(session_id) is False
    created, ended = await trail.events()
    assert (ended["kind"], ended["reason"], ended["actor"]) == ("terminated", "left", actor)
    assert (owner_in(ended), bytes(ended["session_digest"])) == (ACME, digest_of(session_id))
    assert ended["session_created_at"] == created["session_created_at"]
    lived = (moment(ended["occurred_at"]) - moment(created["occurred_at"])).total_seconds()
    assert ended["lifetime_seconds"] == pytest.approx(lived, abs=0.002)
    await trail.agrees_with_the_table()


async def test_of_two_reasons_the_one_that_ended_it_is_recorded(manager: SessionManager, trail: Trail) -> None:
    """Of calls that end one session at once, the trail names the one that was told it did."""
    session_id = await manager.create_session()
    reasons = [f"reason {number}" for number in range(20)]
    told = await together(*(manager.terminate_session(session_id, reason=reason) for reason in reasons))
    (ended,) = await trail.events(kind="terminated")
    assert [reason for reason, ended_it in zip(reasons, told, strict=True) if ended_it] == [ended["reason"]]


async def test_a_log_out_of_many_is_recorded_for_each(open_manager: OpenManager, trail: Trail) -> None:
    """A bulk end leaves one end for each session that it ended, and none for others."""
    manager = await open_manager(cleanup_batch_size=2)
    mine = [await manager.create_session(tenant_id="acme") for _ in range(5)]
    other = await manager.create_session(tenant_id="other")
    ended = await manager.terminate_sessions(tenant_id="acme", reason="contract over", actor="operator")
    events = await trail.events(kind="revoked")
    assert ended == len(events) == 5
    assert {bytes(event["session_digest"]) for event in events} == set(map(digest_of, mine))
    assert {(event["reason"], event["actor"], event["tenant_id"]) for event in events} == {
        ("contract over", "operator", "acme")
    }
    assert await trail.kinds(other) == ["created"]
    await trail.agrees_with_the_table()


async def test_a_clearing_is_recorded_for_each(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """Clearing leaves one end for each session, an expired one included."""
    ids = [await manager.create_session() for _ in range(3)]
    await _expire(rows, ids[0])
    assert await manager.clear_all_sessions(reason="keys leaked", actor="operator") == 3
    events = await trail.events(kind="cleared")
    assert {bytes(event["session_digest"]) for event in events} == set(map(digest_of, ids))
    assert {(event["reason"], event["actor"]) for event in events} == {("keys leaked", "operator")}
    await trail.agrees_with_the_table()


async def test_an_expiry_is_recorded_by_the_cleanup(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """An expired session leaves its end when the cleanup removes it, and is said to have lived until it expired."""
    session_id, live = await manager.create_session(**asdict(ACME)), await manager.create_session()
    await _expire(rows, session_id)
    row = await rows.session(session_id)
    assert row is not None
    assert await manager.terminate_session(session_id) is False
    assert await trail.kinds(session_id) == ["created"]
    assert await together(*(manager.cleanup_stale_sessions() for _ in range(2))) in ([0, 1], [1, 0])
    (ended,) = await trail.events(kind="expired")
    assert (ended["reason"], ended["actor"], owner_in(ended)) == ("expired", "cleanup", ACME)
    lived = (moment(row["expires_at"]) - moment(row["created_at"])).total_seconds()
    assert ended["lifetime_seconds"] == pytest.approx(max(0.0, lived), abs=0.002)
    assert await trail.kinds(live) == ["created"]
    await trail.agrees_with_the_table()


async def test_uses_leave_no_event(open_manager: OpenManager, trail: Trail) -> None:
    """Resuming and touching a session, and asking for it, are not recorded."""
    manager = await open_manager(touch_interval=timedelta(0))
    session_id = await manager.create_session(**asdict(ACME))
    assert await manager.resume_session(session_id, ACME)
    assert await manager.touch_session(session_id)
    assert await manager.is_session_valid(session_id)
    assert await trail.kinds() == ["created"]


async def test_an_id_used_again_has_several_lives(manager: SessionManager, trail: Trail) -> None:
    """Each life of an id that is used again at once has its own beginning and its own end."""
    for number in range(20):
        await manager.create_session("again", tenant_id=str(number))
        assert await manager.terminate_session("again")
    await manager.create_session("again")
    assert await trail.kinds() == [*["created", "terminated"] * 20, "created"]
    await trail.agrees_with_the_table()


async def test_ends_race(open_manager: OpenManager, trail: Trail, rows: Rows) -> None:
    """Sessions that are ended singly, in bulk and by cleanups at the same time have one end each."""
    workers = [await open_manager(cleanup_batch_size=7) for _ in range(3)]
    ids = [await workers[0].create_session(tenant_id=str(number % 2)) for number in range(60)]
    await rows.execute(f"UPDATE sessions SET {_OVER} WHERE {rows.among(ids[::5])}")
    ends = [worker.terminate_session(each) for worker in workers for each in ids[::2]]
    bulk = [worker.terminate_sessions(tenant_id="0") for worker in workers]
    sweeps = [worker.cleanup_stale_sessions() for worker in workers]
    counts = await together(*ends, *bulk, *sweeps)
    assert await workers[0].get_active_session_count(tenant_id="0") == 0
    assert sum(counts) == len(await trail.events()) - len(ids)
    await trail.agrees_with_the_table()


async def test_no_session_id_is_stored(manager: SessionManager, trail: Trail, rows: Rows) -> None:
    """Digests are all there is: no column of any table holds the session id, in whatever form, after all its life."""
    session_id = await manager.create_session(**asdict(ACME), handshake=HANDSHAKE)
    assert await manager.resume_session(session_id, ACME)
    assert await manager.resume_session(session_id, Owner()) is None
    await trail.has_refused(1)
    await manager.cleanup_stale_sessions()
    alive = await everything(rows)
    assert await manager.terminate_session(session_id)
    ended = await everything(rows)
    assert [len(alive[table]) for table in ("sessions", "session_handshakes", "cleanup_runs")] == [1, 1, 1]
    assert [len(stored["session_events"]) for stored in (alive, ended)] == [2, 3]
    for value in (value for row in chain(*alive.values(), *ended.values()) for value in row.values()):
        held = bytes(value) if isinstance(value, bytes) else str(value).encode()
        assert session_id.encode() not in held
        assert session_id.encode().hex().encode() not in held


async def everything(rows: Rows) -> dict[str, list[Row]]:
    """Return all that is stored, by table."""
    tables = ("sessions", "session_handshakes", "session_events", "cleanup_runs")
    return {table: await rows.fetch(f"SELECT * FROM {table}") for table in tables}


@pytest.mark.parametrize("actor", ["cleanup", "database", "foreign", "someone", ""])
async def test_nobody_acts_under_a_borrowed_name(manager: SessionManager, trail: Trail, actor: str) -> None:
    """Only an owner, an application or an operator ends sessions by the manager; nothing happens otherwise."""
    session_id = await manager.create_session(tenant_id="acme")
    with pytest.raises(InvalidInputError, match="actor"):
        await manager.terminate_sessions(tenant_id="acme", actor=actor)
    with pytest.raises(InvalidInputError, match="actor"):
        await manager.clear_all_sessions(actor=actor)
    with pytest.raises(InvalidInputError, match="actor"):
        await manager.terminate_session(session_id, actor=actor)
    assert await trail.kinds() == ["created"]


_OVER = "expires_at = last_activity_at, cleanup_at = last_activity_at"


async def _expire(rows: Rows, session_id: str) -> None:
    """Bring a session's expiry forward to its beginning; its life keeps the time that it began."""
    await rows.execute(f"UPDATE sessions SET {_OVER} WHERE {rows.among([session_id])}")
