"""``list_events`` and ``follow_events``: the audit trail read by the manager."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from mcp_sessions import DatabaseUnavailableError, EventFilter, InvalidInputError, Owner, SessionEvent, SessionManager
from mcp_sessions.digests import digest_of
from mcp_sessions.records.events import EventKind
from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.owners import ACME
from tests.support.postgres import PostgresServer
from tests.support.roles import Roles
from tests.support.rows import Rows
from tests.support.stories import Life, tell
from tests.support.trail import Trail, moment

OTHER = Owner("other", "cli-2", subject="bob")


def kinds_of(events: Any) -> list[EventKind]:
    """Return the kinds of these events."""
    return [each.kind for each in events]


async def test_an_event_is_what_the_table_says(manager: SessionManager, trail: Trail) -> None:
    """Each part of an event is that of its row, and only a refused use has a claimed owner."""
    session_id = await manager.create_session(**asdict(ACME))
    assert await manager.resume_session(session_id, OTHER) is None
    await manager.terminate_session(session_id, reason="left", actor="operator")
    by_kind = {each.kind: each for each in await manager.list_events()}
    assert by_kind.keys() <= {"created", "terminated", "refused"}
    rows = {row["kind"]: row for row in await trail.events()}
    ended, row = by_kind["terminated"], rows["terminated"]
    assert (ended.event_id, ended.digest, ended.owner) == (row["event_id"], digest_of(session_id), ACME)
    assert (ended.reason, ended.actor, ended.claimed) == ("left", "operator", None)
    assert (ended.occurred_at, ended.session_created_at) == (
        moment(row["occurred_at"]),
        moment(row["session_created_at"]),
    )
    assert ended.lifetime_seconds == row["lifetime_seconds"]
    assert by_kind["created"].lifetime_seconds is None


async def test_a_refused_use_names_the_claimed_owner(manager: SessionManager) -> None:
    """A refused use tells whose the session is, and who was refused."""
    session_id = await manager.create_session(**asdict(ACME))
    async with aclosing(cast("Any", manager.follow_events(last=1))) as following:
        await gather_batches(following, 1)
        assert await manager.resume_session(session_id, OTHER) is None
        (event,) = await gather_batches(following, 1)
    assert (event.kind, event.owner, event.claimed) == ("refused", ACME, OTHER)


@pytest.mark.parametrize("limit", [3, 7, 8])
async def test_pages_hold_everything_once_newest_first(manager: SessionManager, trail: Trail, limit: int) -> None:
    """Turning the pages shows each event once, in the reverse order of the trail, even where times are equal."""
    await together(*(manager.create_session() for _ in range(4)))
    await manager.clear_all_sessions()
    page = await manager.list_events(limit=limit)
    shown = [*page]
    while page.next_cursor is not None:
        page = await manager.list_events(limit=limit, cursor=page.next_cursor)
        shown += page
    rows = sorted(await trail.events(), key=lambda row: (row["occurred_at"], row["event_id"]), reverse=True)
    assert [each.event_id for each in shown] == [row["event_id"] for row in rows]
    assert len(shown) == 8


async def tell_of_three(rows: Rows) -> None:
    """Leave a trail of three sessions: two of one tenant that ended, a day apart, and another tenant's that lives."""
    first, second = datetime(2026, 3, 1, 10, tzinfo=UTC), datetime(2026, 3, 2, 10, tzinfo=UTC)
    hour = timedelta(hours=1)
    await tell(
        rows,
        [
            Life("one", ACME, first, first + hour),
            Life("two", Owner("acme"), second, second + hour),
            Life("three", OTHER, second + 2 * hour, None),
        ],
    )


async def test_filters(manager: SessionManager, rows: Rows) -> None:
    """The events that fit every part of the filter are there, and no others."""
    await tell_of_three(rows)
    found = {
        EventFilter(): 5,
        EventFilter(tenant_id="acme"): 4,
        EventFilter(tenant_id="acme", client_id="cli-1"): 2,
        EventFilter(issuer=ACME.issuer): 2,
        EventFilter(subject="bob"): 1,
        EventFilter(tenant_id="acm"): 0,
        EventFilter(kinds=("created",)): 3,
        EventFilter(kinds=("created", "terminated")): 5,
        EventFilter(kinds=("refused",)): 0,
        EventFilter(since=datetime(2026, 3, 2, 10, tzinfo=UTC)): 3,
        EventFilter(until=datetime(2026, 3, 2, 10, tzinfo=UTC)): 2,
        EventFilter(since=timedelta(days=36500), until=timedelta(0)): 5,
        EventFilter(since=timedelta(hours=1)): 0,
        EventFilter(digest_prefix=digest_of("one").hex()): 2,
        EventFilter(digest_prefix=digest_of("one").hex()[:9].upper()): 2,
        EventFilter(digest_prefix="f" * 64): 0,
    }
    assert {wanted: len(await manager.list_events(wanted)) for wanted in found} == found
    assert {each.owner for each in await manager.list_events(EventFilter(kinds=("created",), client_id="cli-2"))} == {
        OTHER
    }


async def gather_batches(batches: AsyncIterator[list[SessionEvent]], count: int) -> list[SessionEvent]:
    """Return that many events or more, as they come."""
    events: list[SessionEvent] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            events += await anext(batches)
    return events


async def test_following_shows_the_last_events_and_each_new_one_once(manager: SessionManager) -> None:
    """The last events come oldest first, then what happens while somebody follows, and nothing twice."""
    for _ in range(3):
        await manager.create_session(tenant_id="acme")
    async with aclosing(cast("Any", manager.follow_events(EventFilter(tenant_id="acme"), last=2))) as following:
        known = [each.event_id for each in await gather_batches(following, 2)]
        assert known == sorted(known)
        assert len(known) == 2
        await manager.create_session(tenant_id="other")
        await manager.terminate_sessions(tenant_id="acme")
        assert kinds_of(await gather_batches(following, 3)) == ["revoked"] * 3
        await manager.create_session(tenant_id="acme")
        assert kinds_of(await gather_batches(following, 1)) == ["created"]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_following_shows_an_event_that_was_committed_late(manager: SessionManager, rows: Rows) -> None:
    """An event whose transaction commits after one with a higher number is not missed."""
    await manager.create_session()
    late = await rows._postgres()
    try:
        async with aclosing(cast("Any", manager.follow_events(last=1))) as following:
            await gather_batches(following, 1)
            await late.execute("BEGIN")
            await late.execute(
                "INSERT INTO sessions (session_digest, created_at, last_activity_at, expires_at, cleanup_at) "
                "VALUES (sha256('late'), now(), now(), now() + interval '1 hour', now() + interval '1 hour')"
            )
            session_id = await manager.create_session()
            first = await gather_batches(following, 1)
            await late.execute("COMMIT")
            second = await gather_batches(following, 1)
    finally:
        await late.close(timeout=10)
    assert [each.digest for each in first] == [digest_of(session_id)]
    assert [each.digest for each in second] == [digest_of("late")]
    assert second[0].event_id < first[0].event_id


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_following_waits_for_a_transaction_however_long_it_takes(manager: SessionManager, rows: Rows) -> None:
    """An event is not missed where others with higher numbers were committed, and seem to be old, before it is."""
    await manager.create_session()
    late = await rows._postgres()
    try:
        async with aclosing(cast("Any", manager.follow_events(last=1))) as following:
            await gather_batches(following, 1)
            await late.execute("BEGIN")
            await late.execute(insertion("late", "now()"))
            await rows.execute(insertion("waited", "now() - interval '1 hour'"))
            for _ in range(3):  # as many polls
                await manager.create_session()
                await gather_batches(following, 1)
            await late.execute("COMMIT")
            (event,) = await gather_batches(following, 1)
    finally:
        await late.close(timeout=10)
    assert event.digest == digest_of("late")


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.slow
async def test_an_auditor_of_a_tenant_follows_it(
    manager: SessionManager, rows: Rows, roles: Roles, open_manager: OpenManager
) -> None:
    """Who may read the views alone is shown the same, of one tenant, and nothing is missed there either."""
    await manager.create_session(tenant_id="acme")
    auditor = await open_manager(database_url=await roles.make_tenant_auditor("acme"), scheduled_cleanup=False)
    late = await rows._postgres()
    try:
        async with aclosing(cast("Any", auditor.follow_events(last=1))) as following:
            await gather_batches(following, 1)
            await late.execute("BEGIN")
            await late.execute(insertion("late", "now()"))
            for _ in range(3):
                await manager.create_session(tenant_id="other")
                await manager.create_session(tenant_id="acme")
                assert {each.owner.tenant_id for each in await gather_batches(following, 1)} == {"acme"}
            await late.execute("COMMIT")
            (event,) = await gather_batches(following, 1)
    finally:
        await late.close(timeout=10)
    assert event.digest == digest_of("late")


def insertion(session_id: str, occurred_at: str) -> str:
    """The beginning of a session, as an event that is written by hand."""
    return (
        "INSERT INTO session_events (occurred_at, kind, reason, actor, tenant_id, session_digest, "
        f"session_created_at, is_end) VALUES ({occurred_at}, 'created', 'created', 'owner', 'acme', "
        f"sha256('{session_id}'), now(), false)"
    )


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_an_outage_ends_following_where_nobody_listens(
    manager: SessionManager, postgres_server: PostgresServer
) -> None:
    """Without a listener, an outage of the database is a fault to whoever follows."""
    await manager.create_session()
    async with aclosing(cast("Any", manager.follow_events(last=1))) as following:
        await gather_batches(following, 1)
        postgres_server.stop()
        with pytest.raises(DatabaseUnavailableError):
            await anext(following)
    postgres_server.start()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ("opened",)},
        {"tenant_id": ""},
        {"digest_prefix": "xyz"},
        {"since": datetime(2026, 3, 1)},  # noqa: DTZ001 - what is refused
        {"until": timedelta(days=-1)},
        {"since": timedelta(days=36501)},
        {"since": datetime.fromisoformat("0001-01-01T00:00+14:00")},
    ],
    ids=str,
)
def test_a_filter_that_cannot_be_right_is_refused(wrong: dict[str, Any]) -> None:
    """What no event can fit is an error that says so, and not an empty list."""
    with pytest.raises(InvalidInputError):
        EventFilter(**wrong)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1001}, {"cursor": "bogus"}, {"cursor": "MQ=="}], ids=str)
async def test_a_wrong_page_is_refused(manager: SessionManager, wrong: dict[str, Any]) -> None:
    """A limit out of bounds and a cursor that is not ours are errors."""
    with pytest.raises(InvalidInputError):
        await manager.list_events(**wrong)
