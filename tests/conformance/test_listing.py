"""``list_sessions``, ``find_sessions`` and ``get_active_session_count``: live sessions only, digests only."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import Owner, Session, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER
from tests.support.owners import ACME
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER

OWNERS = [ACME, Owner("acme", "cli-2", subject="bob"), Owner("other", "cli-1", subject="ann"), Owner("acme"), Owner()]


async def all_pages(manager: SessionManager, limit: int, **filters: str) -> list[Session]:
    """Turn page after page to the last one."""
    page = await manager.list_sessions(limit=limit, **filters)
    sessions = list(page)
    while page.next_cursor is not None:
        assert len(page) == limit
        page = await manager.list_sessions(limit=limit, cursor=page.next_cursor, **filters)
        sessions += page
    return sessions


async def one_moment(rows: Rows) -> None:
    """Have all sessions of the table created at the same moment."""
    await rows.execute("UPDATE sessions SET created_at = (SELECT min(created_at) FROM sessions)")


async def test_newest_first(manager: SessionManager, rows: Rows) -> None:
    """Sessions come newest first, and those created at one moment by falling digest, on both engines alike."""
    ids = [await manager.create_session(f"session-{number}") for number in range(6)]
    for age, session_id in enumerate(ids[:3]):
        await rows.age(session_id, timedelta(minutes=age + 1))
    tied = "created_at = (SELECT max(created_at) FROM sessions)"
    await rows.execute(f"UPDATE sessions SET {tied} WHERE {rows.among(ids[3:])}")
    ties = sorted((digest_of(each) for each in ids[3:]), reverse=True)
    assert [each.digest for each in await manager.list_sessions()] == [*ties, *(digest_of(each) for each in ids[:3])]


async def test_it_carries_digests_and_no_ids(manager: SessionManager) -> None:
    """A listed session is what its metadata say; the id is nowhere in it, nor in the cursor."""
    ids = [await manager.create_session(**asdict(ACME)) for _ in range(2)]
    page = await manager.list_sessions(limit=1)
    listed = [*page, *await manager.list_sessions(cursor=page.next_cursor)]
    assert listed == [await manager.get_session_metadata(each) for each in reversed(ids)]
    assert not any(session_id in repr(page) for session_id in ids)


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 1000])
async def test_pages_hold_everything_once(manager: SessionManager, rows: Rows, limit: int) -> None:
    """Whatever the size of a page, and even where all sessions are of one moment, none is missed or repeated."""
    await together(*(manager.create_session() for _ in range(7)))
    await one_moment(rows)
    listed = await all_pages(manager, limit)
    assert len(listed) == 7
    assert len({each.digest for each in listed}) == 7


async def test_an_empty_page_is_the_last(manager: SessionManager) -> None:
    """Where there is nothing to list, the page is empty and there is no next one."""
    page = await manager.list_sessions()
    assert (page.sessions, page.next_cursor) == ((), None)


async def test_pages_stay_put_while_sessions_come_and_go(manager: SessionManager, rows: Rows) -> None:
    """Between two pages sessions are created, touched and ended, the cursor's own too: no other moves or is lost."""
    await together(*(manager.create_session(f"old-{number}") for number in range(9)))
    await rows.age_all(timedelta(minutes=5))
    await one_moment(rows)
    order = [each.digest for each in await manager.list_sessions()]
    first = await manager.list_sessions(limit=3)
    await together(*(manager.create_session() for _ in range(4)))
    for gone in (order[0], order[2], order[4]):
        assert await manager.terminate_digest(gone)
    await together(*(manager.touch_session(f"old-{number}") for number in range(9)))
    rest = await manager.list_sessions(limit=100, cursor=first.next_cursor)
    assert [each.digest for each in rest] == [order[3], *order[5:]]


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"tenant_id": "acme"},
        {"tenant_id": "acme", "client_id": "cli-1"},
        {"client_id": "cli-1"},
        {"tenant_id": "nobody"},
        {"tenant_id": "acm"},
    ],
    ids=str,
)
async def test_filters_by_tenant_and_client(manager: SessionManager, filters: Mapping[str, Any]) -> None:
    """A list and a count hold the sessions that all filters fit, and of another tenant none."""
    await together(*(manager.create_session(**asdict(owner)) for owner in OWNERS for _ in range(2)))
    meant = 2 * sum(filters.items() <= asdict(owner).items() for owner in OWNERS)
    listed = await all_pages(manager, 1, **filters)
    assert len(listed) == meant
    assert all(filters.items() <= asdict(each.owner).items() for each in listed)
    assert await manager.get_active_session_count(**filters) == meant


async def test_filter_by_subject(manager: SessionManager) -> None:
    """The sessions of one user can be listed, within a tenant or everywhere."""
    await together(*(manager.create_session(**asdict(owner)) for owner in OWNERS))
    assert {each.owner for each in await manager.list_sessions(subject="ann")} == {OWNERS[0], OWNERS[2]}
    assert [each.owner for each in await manager.list_sessions(subject="ann", tenant_id="other")] == [OWNERS[2]]


async def test_a_cursor_of_one_tenant_opens_no_other(manager: SessionManager) -> None:
    """A cursor names a place, not a right: with another tenant's filter it shows that tenant's sessions only."""
    await together(*(manager.create_session(tenant_id=tenant) for tenant in ("acme", "other") for _ in range(3)))
    page = await manager.list_sessions(tenant_id="acme", limit=1)
    foreign = await manager.list_sessions(tenant_id="other", cursor=page.next_cursor)
    assert {each.owner.tenant_id for each in foreign} <= {"other"}


async def test_expired_rows_are_neither_listed_nor_counted(manager: SessionManager, rows: Rows) -> None:
    """An expired session that is not swept yet does not exist for a list, a count or a search."""
    ids = await together(*(manager.create_session(tenant_id="acme") for _ in range(4)))
    for session_id in ids[:3]:
        await rows.age(session_id, timedelta(days=1))
    for filters in ({}, {"tenant_id": "acme"}):
        assert [each.digest for each in await manager.list_sessions(limit=1, **filters)] == [digest_of(ids[3])]
        assert await manager.get_active_session_count(**filters) == 1
    assert await manager.find_sessions(digest_of(ids[0]).hex()) == []
    assert await rows.count() == 4


async def test_a_session_is_found_by_the_beginning_of_its_digest(manager: SessionManager) -> None:
    """Any number of first hex digits finds it, in either case; what is ambiguous gives several."""
    sessions = {digest_of(await manager.create_session(f"session-{n}")).hex() for n in range(40)}
    digest = min(sessions)
    for length in (12, 13, 63, 64):
        assert [each.digest.hex() for each in await manager.find_sessions(digest[:length].upper())] == [digest]
    alike = sorted(each for each in sessions if each[0] == digest[0])
    assert [each.digest.hex() for each in await manager.find_sessions(digest[0], limit=100)] == alike
    assert await manager.find_sessions("f" * 64) == []
