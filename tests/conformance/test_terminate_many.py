"""``terminate_sessions``, the log-out of a tenant, a client or a user, and ``clear_all_sessions``."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from mcp_sessions import InvalidInputError, Owner, SessionManager
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.owners import ACME
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER

OWNERS = [
    ACME,
    Owner("acme", "cli-1", "https://idp.example", "bob"),
    Owner("acme", "cli-2", "https://idp.example", "ann"),
    Owner("acme"),
    Owner("other", "cli-1", "https://idp.example", "ann"),
    Owner(None, "cli-1"),
    Owner(issuer="https://idp.example", subject="ann"),
    Owner(issuer="https://evil.example", subject="ann"),
    Owner(),
]


@pytest.mark.parametrize(
    "filters",
    [
        {"tenant_id": "acme"},
        {"client_id": "cli-1"},
        {"issuer": "https://idp.example"},
        {"subject": "ann"},
        {"tenant_id": "acme", "client_id": "cli-1"},
        {"issuer": "https://idp.example", "subject": "ann"},
        asdict(ACME),
        {"tenant_id": "nobody"},
        {"tenant_id": "acme", "client_id": "nobody"},
        {"tenant_id": "%"},
    ],
    ids=str,
)
async def test_it_ends_exactly_what_the_filters_name(
    manager: SessionManager, rows: Rows, filters: Mapping[str, Any]
) -> None:
    """All filters must fit; sessions of everybody else, those of other tenants above all, stay as they are."""
    ids = {owner: await manager.create_session(**asdict(owner)) for owner in OWNERS}
    meant = [owner for owner in OWNERS if filters.items() <= asdict(owner).items()]
    others = [owner for owner in OWNERS if owner not in meant]
    before = [await rows.session(ids[owner]) for owner in others]
    assert await manager.terminate_sessions(**filters) == len(meant)
    assert await rows.count() == len(others)
    assert [await rows.session(ids[owner]) for owner in others] == before
    assert await manager.terminate_sessions(**filters) == 0


async def test_it_wants_a_filter(manager: SessionManager) -> None:
    """Without any filter it is an error, and ends nothing: ``clear_all_sessions`` is for that."""
    session_id = await manager.create_session()
    with pytest.raises(InvalidInputError, match="tenant_id, client_id, issuer and subject"):
        await manager.terminate_sessions()
    assert await manager.is_session_valid(session_id)


@pytest.mark.parametrize("count", [1, 6, 7, 15])
@pytest.mark.slow
async def test_it_works_in_bounded_batches(open_manager: OpenManager, count: int) -> None:
    """However many there are, and however that divides into batches, all end and all are counted."""
    manager = await open_manager(cleanup_batch_size=3)
    await together(*(manager.create_session(tenant_id="acme") for _ in range(count)))
    await manager.create_session(tenant_id="other")
    assert await manager.terminate_sessions(tenant_id="acme") == count
    assert await manager.get_active_session_count() == 1


async def test_expired_sessions_do_not_count(manager: SessionManager, rows: Rows) -> None:
    """An expired session has ended already: it is not counted, and is left to the cleanup."""
    expired = await manager.create_session(tenant_id="acme")
    await manager.create_session(tenant_id="acme")
    await rows.age(expired, timedelta(days=1))
    assert await manager.terminate_sessions(tenant_id="acme") == 1
    assert await rows.session(expired) is not None


async def test_expired_sessions_do_not_get_in_the_way(open_manager: OpenManager, rows: Rows) -> None:
    """Batches are batches of live sessions, however many expired ones lie among them."""
    manager = await open_manager(cleanup_batch_size=2)
    expired = await together(*(manager.create_session(tenant_id="acme") for _ in range(10)))
    for session_id in expired:
        await rows.age(session_id, timedelta(days=1))
    await together(*(manager.create_session(tenant_id="acme") for _ in range(5)))
    assert await manager.terminate_sessions(tenant_id="acme") == 5


async def test_clearing_leaves_nothing(open_manager: OpenManager, rows: Rows) -> None:
    """The emergency exit removes every session of everybody, expired ones too, and tells how many and how far."""
    manager = await open_manager(cleanup_batch_size=4)
    ids = {owner: await manager.create_session(**asdict(owner)) for owner in OWNERS}
    await rows.age(ids[ACME], timedelta(days=1))
    told = [0]
    assert await manager.clear_all_sessions(progress=told.append) == told[-1] == len(OWNERS)
    assert all(0 < later - earlier <= 4 for earlier, later in pairwise(told))  # fewer where a batch was slow
    assert await rows.count() == 0
    assert await manager.clear_all_sessions() == 0


async def test_life_goes_on_after_clearing(manager: SessionManager) -> None:
    """A cleared id is free again, and new sessions are like any other."""
    await manager.create_session("mine")
    await manager.clear_all_sessions()
    await manager.create_session("mine")
    assert await manager.resume_session("mine", Owner()) is not None
