"""``terminate_session`` and ``terminate_digest``: the end of one session, final and everywhere."""

from dataclasses import asdict
from datetime import timedelta

from mcp_sessions import Owner, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import WITH_PGBOUNCER, OpenManager
from tests.support.owners import ACME, MISMATCHES
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER


async def test_it_is_final_everywhere(open_manager: OpenManager, rows: Rows) -> None:
    """From the return on, no worker finds, resumes, touches, lists or counts the session, and its row is gone."""
    one, other = await open_manager(), await open_manager(touch_interval=timedelta(0))
    session_id = await one.create_session(**asdict(ACME))
    assert await other.resume_session(session_id, ACME) is not None
    assert await one.terminate_session(session_id) is True
    for manager in (one, other):
        assert await manager.resume_session(session_id, ACME) is None
        assert not await manager.touch_session(session_id)
        assert not await manager.is_session_valid(session_id)
        assert await manager.get_session_metadata(session_id) is None
        assert len(await manager.list_sessions()) == 0
        assert await manager.get_active_session_count() == 0
    assert await rows.session(session_id) is None


async def test_only_the_first_end_says_yes(manager: SessionManager) -> None:
    """False where there was no live session: unknown, ended before, or ended by another call at the same time."""
    assert await manager.terminate_session("unknown") is False
    session_id = await manager.create_session()
    ends = await together(*(manager.terminate_session(session_id) for _ in range(10)))
    assert ends.count(True) == 1
    assert await manager.terminate_session(session_id) is False


async def test_an_expired_session_cannot_be_terminated(manager: SessionManager, rows: Rows) -> None:
    """An expired session has ended already: False, and its row is left to the cleanup."""
    session_id = await manager.create_session()
    await rows.age(session_id, timedelta(days=1))
    assert await manager.terminate_session(session_id) is False
    assert await rows.count() == 1


async def test_its_owner_may_end_it(manager: SessionManager) -> None:
    """With the owner it belongs to, the session ends."""
    session_id = await manager.create_session(**asdict(ACME))
    assert await manager.terminate_session(session_id, owner=ACME) is True
    assert not await manager.is_session_valid(session_id)


async def test_another_owner_may_not(manager: SessionManager, rows: Rows) -> None:
    """With any other owner the answer is False, as for an unknown id, and the row is unchanged."""
    ids = {name: await manager.create_session(**asdict(owner)) for name, (owner, _) in MISMATCHES.items()}
    before = await rows.fetch("SELECT * FROM sessions")
    ended = [n for n, (_, other) in MISMATCHES.items() if await manager.terminate_session(ids[n], owner=other)]
    assert ended == []
    assert await rows.fetch("SELECT * FROM sessions") == before


async def test_ends_by_two_owners_at_once_are_told_apart(manager: SessionManager) -> None:
    """Of ends that share a statement, only that of the session's own owner says yes, whatever their order."""
    owners = [Owner(), Owner(tenant_id="acme"), ACME, Owner(tenant_id="other")]
    for order in (owners, owners[::-1]):
        session_id = await manager.create_session(**asdict(ACME))
        ends = await together(*(manager.terminate_session(session_id, owner=owner) for owner in order))
        assert [owner for owner, ended in zip(order, ends, strict=True) if ended] == [ACME]


async def test_others_live_on(manager: SessionManager, rows: Rows) -> None:
    """The end of one session changes no other one, of the same owner or not."""
    ended = await manager.create_session(**asdict(ACME))
    others = [await manager.create_session(**asdict(ACME)), await manager.create_session()]
    before = [await rows.session(each) for each in others]
    assert await manager.terminate_session(ended)
    assert [await rows.session(each) for each in others] == before


async def test_a_digest_is_enough(manager: SessionManager) -> None:
    """Operators, who know digests only, end sessions by those, with the same answers."""
    session_id = await manager.create_session(**asdict(ACME))
    digest = digest_of(session_id)
    assert await manager.terminate_digest(digest, owner=Owner()) is False
    assert await manager.terminate_digest(digest, owner=ACME, reason="by an operator") is True
    assert await manager.terminate_digest(digest) is False
    assert not await manager.is_session_valid(session_id)
