"""Races between workers, with real concurrency: several managers on one database."""

import asyncio
from dataclasses import asdict
from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from mcp_sessions import Owner, Session, SessionExistsError, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import OpenManager, eventually
from tests.support.owners import ACME
from tests.support.rows import Rows

EVERY_USE = timedelta(0)
WORKERS = 3


@pytest.fixture
async def workers(open_manager: OpenManager) -> list[SessionManager]:
    """Several managers that record every use."""
    return [await open_manager(touch_interval=EVERY_USE, cleanup_batch_size=7) for _ in range(WORKERS)]


async def test_one_of_many_creations_of_an_id_wins(workers: list[SessionManager]) -> None:
    """However many workers create one id at the same time, one of them does, and its owner is the session's."""
    for number in range(15):
        owners = [Owner(f"tenant-{place}") for place in range(2 * WORKERS)]

        async def created(place: int, owner: Owner, session_id: str) -> Owner | None:
            try:
                await workers[place % WORKERS].create_session(session_id, **asdict(owner))
            except SessionExistsError:
                return None
            return owner

        session_id = f"same-{number}"
        winners = await together(*(created(place, owner, session_id) for place, owner in enumerate(owners)))
        (winner,) = (each for each in winners if each is not None)
        session = await workers[0].get_session_metadata(session_id)
        assert session is not None
        assert session.owner == winner


async def test_no_resume_succeeds_after_an_end(workers: list[SessionManager], rows: Rows) -> None:
    """From an end's return on, no worker that begins to resume or touch gets the session, and no row comes back."""
    ended = asyncio.Event()
    late: list[Session | bool | None] = []

    async def use(worker: SessionManager, session_id: str) -> int:
        successes = 0
        while not ended.is_set():
            successes += await worker.resume_session(session_id, ACME) is not None
            successes += await worker.touch_session(session_id)
        for _ in range(3):
            late.append(await worker.resume_session(session_id, ACME))
            late.append(await worker.touch_session(session_id))
        return successes

    for _ in range(10):
        ended.clear()
        late.clear()
        session_id = await workers[0].create_session(**asdict(ACME))
        users = [asyncio.create_task(use(worker, session_id)) for worker in workers for _ in range(3)]
        assert await workers[1].resume_session(session_id, ACME) is not None
        assert await workers[2].terminate_session(session_id) is True
        ended.set()
        assert sum(await together(*users)) > 0
        assert not any(late)
        assert await rows.session(session_id) is None


async def test_one_of_many_ends_says_yes(workers: list[SessionManager]) -> None:
    """Every session is ended exactly once, by whichever worker, among touches by all."""
    ids = await together(*(workers[0].create_session(**asdict(ACME)) for _ in range(30)))
    ends = [worker.terminate_session(session_id) for session_id in ids for worker in workers]
    touches = [worker.touch_session(session_id) for session_id in ids for worker in workers]
    answers = await together(*ends, *touches)
    assert sum(answers[: len(ends)]) == len(ids)


async def test_the_cleanup_never_removes_a_live_session(workers: list[SessionManager], rows: Rows) -> None:
    """While sessions about to expire are touched, cleanups remove those that expired and none that was extended."""
    for _ in range(3):
        ids = await together(*(workers[0].create_session() for _ in range(40)))
        expired, used = ids[:20], ids[20:]
        for session_id in expired:
            await rows.age(session_id, timedelta(hours=1))
        await rows.execute(f"UPDATE sessions SET cleanup_at = created_at WHERE {rows.among(used)}")
        touches = [worker.touch_session(session_id) for session_id in used for worker in workers]
        removed = [worker.cleanup_stale_sessions() for worker in workers]
        answers = await together(*removed, *touches)
        assert sum(answers[:WORKERS]) == len(expired)
        assert all(answers[WORKERS:])
        assert (
            await workers[1].get_active_session_count()
            == len(used)
            == await workers[0].terminate_sessions(client_id="nobody") + await rows.count()
        )
        await workers[0].clear_all_sessions()


async def test_cleaners_at_once_take_turns(workers: list[SessionManager], rows: Rows) -> None:
    """Of several cleanups at once one runs at a time, together they remove each expired session once."""
    await together(*(workers[0].create_session() for _ in range(60)))
    await rows.age_all(timedelta(days=1))
    await workers[0].create_session("live")
    removed = await together(*(worker.cleanup_stale_sessions() for worker in workers))
    assert sum(removed) == 60
    assert await rows.count() == 1
    runs = await rows.fetch("SELECT * FROM cleanup_runs ORDER BY started_at, ended_at")
    assert len(runs) == WORKERS
    assert all(earlier["ended_at"] <= later["started_at"] for earlier, later in pairwise(runs))
    assert sum(run["sessions_removed"] for run in runs) == 60


@pytest.mark.slow
async def test_a_log_out_ends_all_that_was_acknowledged_before(workers: list[SessionManager]) -> None:
    """In a storm of creations on every worker, a log-out ends each session whose creation had returned before it."""
    for _ in range(4):
        await log_out_amid_a_storm(workers)
        await workers[0].clear_all_sessions()


async def log_out_amid_a_storm(workers: list[SessionManager]) -> None:
    """Log a tenant out on every worker, while every worker goes on creating sessions for it."""
    acknowledged: list[str] = []
    logged_out = asyncio.Event()

    async def create(worker: SessionManager) -> None:
        while not logged_out.is_set():
            acknowledged.append(await worker.create_session(tenant_id="acme"))

    storm = [asyncio.create_task(create(worker)) for worker in workers for _ in range(4)]
    await eventually(lambda: len(acknowledged) >= 60, "a storm of creations")
    before = list(acknowledged)
    counts = await together(*(worker.terminate_sessions(tenant_id="acme") for worker in workers))
    valid = await together(*(workers[0].is_session_valid(session_id) for session_id in before))
    logged_out.set()
    await together(*storm)
    assert sum(valid) == 0
    assert sum(counts) >= len(before)


async def test_touches_in_opposite_orders_do_not_deadlock(workers: list[SessionManager], rows: Rows) -> None:
    """Workers that touch, end and log out the same sessions, each in its own order, never deadlock."""
    for seed in range(4):
        ids = await together(*(workers[0].create_session(tenant_id=f"tenant-{n % 3}") for n in range(40)))
        calls: list[Any] = []
        for place, worker in enumerate(workers):
            order = list(ids)
            Random(10 * seed + place).shuffle(order)  # noqa: S311 - no secret
            calls += [worker.touch_session(session_id) for session_id in order]
            calls += [worker.resume_session(session_id, Owner(f"tenant-{place}")) for session_id in order]
            calls += [worker.terminate_session(session_id) for session_id in order[:10]]
            calls.append(worker.terminate_sessions(tenant_id=f"tenant-{place}"))
            calls.append(worker.cleanup_stale_sessions())
        await asyncio.wait_for(together(*calls), 30)
        assert await workers[0].get_active_session_count() == 0
    if not rows.on_sqlite:
        for worker in workers:
            await worker._close()  # a server process reports its deadlocks when it ends, at the latest
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await rows.value(deadlocks) == 0


async def test_an_answer_belongs_to_its_caller(workers: list[SessionManager]) -> None:
    """Among many calls that share statements everybody gets the session that they asked for."""
    ids = await together(*(workers[0].create_session(subject=f"user-{number}") for number in range(100)))
    asked = [(worker, number) for number in range(100) for worker in workers]
    Random(3).shuffle(asked)  # noqa: S311 - no secret
    found = await together(*(worker.resume_session(ids[n], Owner(subject=f"user-{n}")) for worker, n in asked))
    for (_, number), session in zip(asked, found, strict=True):
        assert session is not None
        assert (session.digest, session.owner.subject) == (digest_of(ids[number]), f"user-{number}")
