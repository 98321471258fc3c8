"""Two writers at one row on Postgres, one held in the middle: who waits sees what the other one committed.

The other writer is a plain connection whose transaction stays open until the call under test waits for its lock, or
has found the row locked and waits to look again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import pytest

from mcp_sessions import Owner, SessionExistsError, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.managers import ON_POSTGRES, OpenManager, eventually_in_sql
from tests.support.owners import ACME
from tests.support.rows import WAITING, Rows
from tests.support.trail import Trail

pytestmark = ON_POSTGRES

T = TypeVar("T")

WAITING_OR_LOOKING = f"""
    SELECT ({WAITING}) OR count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'mcp-sessions'
    AND state = 'idle' AND query LIKE 'WITH kept %'
    AND query_start > (SELECT max(xact_start) FROM pg_stat_activity WHERE state = 'idle in transaction')
"""


class OtherWriter:
    """A transaction of another worker, held open in the middle."""

    def __init__(self, connection: Any, rows: Rows) -> None:
        self._connection = connection
        self._rows = rows
        self.committed_at: datetime | None = None

    async def has_done(self, statement: str) -> None:
        """Run a statement, and keep its locks."""
        await self._connection.execute("BEGIN")
        await self._connection.execute(statement)

    async def commits_while_waits(
        self, call: Coroutine[Any, Any, T], until: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """Start a call, commit once it waits for this writer's lock, and ``until`` is over; return its answer."""
        task = asyncio.ensure_future(call)

        async def is_waiting() -> bool:
            return task.done() or bool(await self._rows.value(WAITING_OR_LOOKING))

        await eventually_in_sql(is_waiting, "the call to wait for the lock")
        assert not task.done(), "the call did not wait for the other writer"
        if until is not None:
            await until()
        self.committed_at = await self._connection.fetchval("SELECT clock_timestamp()")
        await self._connection.execute("COMMIT")
        return await asyncio.wait_for(task, 10)

    async def commits_when_over(self, call: Coroutine[Any, Any, T], manager: SessionManager, session_id: str) -> T:
        """Start a call, commit once it waits and the session has expired for everybody, and return the answer."""

        async def has_expired() -> bool:
            return not await manager.is_session_valid(session_id)

        return await self.commits_while_waits(call, lambda: eventually_in_sql(has_expired, "the session to expire"))


@pytest.fixture
async def other_writer(database_url: str, rows: Rows) -> AsyncIterator[OtherWriter]:
    """Another worker's connection."""
    connection = await asyncpg.connect(database_url, command_timeout=10)
    yield OtherWriter(connection, rows)
    await connection.close(timeout=5)


@pytest.fixture
async def manager(open_manager: OpenManager) -> SessionManager:
    """A manager that records every use, and works in batches of two."""
    return await open_manager(touch_interval=timedelta(0), cleanup_batch_size=2)


def touch_of(rows: Rows, *session_ids: str) -> str:
    """A touch, as another worker writes it."""
    moved = "last_activity_at = clock_timestamp(), expires_at = clock_timestamp() + interval '31 minutes'"
    return f"UPDATE sessions SET {moved} WHERE {rows.among(session_ids)}"


def end_of(rows: Rows, *session_ids: str) -> str:
    """An end, as another worker writes it."""
    return f"DELETE FROM sessions WHERE {rows.among(session_ids)}"


async def test_an_end_waits_for_a_touch_and_ends_the_session(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """A session that is being touched is ended all the same, and the answer is True."""
    session_id = await manager.create_session(**asdict(ACME))
    await other_writer.has_done(touch_of(rows, session_id))
    assert await other_writer.commits_while_waits(manager.terminate_session(session_id, owner=ACME)) is True
    assert await rows.session(session_id) is None


async def test_a_resume_waits_for_an_end_and_is_none(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """A session that is being ended is not resumed, and not written back."""
    session_id = await manager.create_session(**asdict(ACME))
    await other_writer.has_done(end_of(rows, session_id))
    assert await other_writer.commits_while_waits(manager.resume_session(session_id, ACME)) is None
    assert await rows.count() == 0


async def test_a_resume_whose_touch_is_due_waits_for_an_end_and_is_none(
    open_manager: OpenManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """What was read before the touch is no answer once the touch finds the session gone."""
    manager = await open_manager(touch_interval=timedelta(minutes=1))
    session_id = await manager.create_session(**asdict(ACME))
    await rows.age(session_id, timedelta(minutes=10))
    await other_writer.has_done(end_of(rows, session_id))
    assert await other_writer.commits_while_waits(manager.resume_session(session_id, ACME)) is None
    assert await rows.count() == 0


async def test_a_resume_waits_for_another_touch_and_succeeds(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """Two touches at once are two yeses, and the later activity stays."""
    session_id = await manager.create_session(**asdict(ACME))
    await other_writer.has_done(touch_of(rows, session_id))
    resumed = await other_writer.commits_while_waits(manager.resume_session(session_id, ACME))
    assert resumed is not None
    assert resumed == await manager.get_session_metadata(session_id)


async def test_a_touch_waits_for_an_expiry_and_revives_nothing(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """Expiry is asked again of the row that the other writer left."""
    session_id = await manager.create_session()
    await other_writer.has_done(f"UPDATE sessions SET expires_at = created_at WHERE {rows.among([session_id])}")
    assert not await other_writer.commits_while_waits(manager.touch_session(session_id))
    assert not await manager.is_session_valid(session_id)


async def expires_soon(rows: Rows, *session_ids: str) -> None:
    """Have sessions expire soon, by the database's clock: late enough for a call to begin to wait."""
    soon = "clock_timestamp() + interval '1.5 seconds'"
    await rows.execute(f"UPDATE sessions SET expires_at = {soon}, cleanup_at = now() WHERE {rows.among(session_ids)}")


async def test_a_touch_that_waited_beyond_the_expiry_revives_nothing(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """What has expired while the touch waited stays expired, though the other writer has changed nothing."""
    session_id = await manager.create_session()
    await expires_soon(rows, session_id)
    await other_writer.has_done(f"SELECT 1 FROM sessions WHERE {rows.among([session_id])} FOR UPDATE")
    before = await rows.session(session_id)
    assert not await other_writer.commits_when_over(manager.touch_session(session_id), manager, session_id)
    assert await rows.session(session_id) == before


@pytest.mark.slow
async def test_a_bulk_end_judges_when_the_last_of_its_rows_is_locked(
    manager: SessionManager, rows: Rows, trail: Trail, other_writer: OtherWriter
) -> None:
    """Of sessions that are ended together, those whose lock came at once and that expired meanwhile have expired."""
    ids = sorted([await manager.create_session(tenant_id="acme") for _ in range(2)], key=digest_of)
    await expires_soon(rows, ids[0])
    await other_writer.has_done(f"SELECT 1 FROM sessions WHERE {rows.among(ids[1:])} FOR UPDATE")
    bulk = manager.terminate_sessions(tenant_id="acme")
    assert await other_writer.commits_when_over(bulk, manager, ids[0]) == 1
    assert await manager.cleanup_stale_sessions() == 1
    assert await trail.kinds() == ["created", "created", "revoked", "expired"]


async def test_a_touch_that_waited_for_one_that_came_in_time_succeeds(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """A session that another worker kept alive is alive for who waited beyond the expiry that it had before."""
    session_id = await manager.create_session()
    await expires_soon(rows, session_id)
    await other_writer.has_done(touch_of(rows, session_id))
    assert await other_writer.commits_when_over(manager.touch_session(session_id), manager, session_id)


@pytest.mark.parametrize("call", ["terminate", "bulk"])
async def test_an_end_that_waited_beyond_the_expiry_ends_nothing(
    manager: SessionManager, rows: Rows, trail: Trail, other_writer: OtherWriter, call: str
) -> None:
    """A session that expired while its end waited has expired: the cleanup takes it, and the trail says so."""
    session_id = await manager.create_session(tenant_id="acme")
    await expires_soon(rows, session_id)
    await other_writer.has_done(f"SELECT 1 FROM sessions WHERE {rows.among([session_id])} FOR UPDATE")
    one, all_of_it = manager.terminate_session(session_id), manager.terminate_sessions(tenant_id="acme")
    meant, other = (one, all_of_it) if call == "terminate" else (all_of_it, one)
    other.close()
    assert not await other_writer.commits_when_over(meant, manager, session_id)
    assert await manager.cleanup_stale_sessions() == 1
    assert await trail.kinds() == ["created", "expired"]


async def test_an_end_is_recorded_when_it_came_not_when_it_was_asked_for(
    manager: SessionManager, rows: Rows, trail: Trail, other_writer: OtherWriter
) -> None:
    """The event of an end that waited names the moment after the wait."""
    session_id = await manager.create_session()
    await other_writer.has_done(touch_of(rows, session_id))
    assert await other_writer.commits_while_waits(manager.terminate_session(session_id)) is True
    (ended,) = await trail.events(kind="terminated")
    assert ended["occurred_at"] > other_writer.committed_at


async def test_a_touch_waits_for_a_change_of_owner_and_asks_again(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """The owner check, too, is made on the row that the other writer left."""
    session_id = await manager.create_session(**asdict(ACME))
    await other_writer.has_done(f"UPDATE sessions SET tenant_id = 'other' WHERE {rows.among([session_id])}")
    assert await other_writer.commits_while_waits(manager.resume_session(session_id, ACME)) is None


async def test_a_creation_waits_for_another_of_the_same_id(manager: SessionManager, other_writer: OtherWriter) -> None:
    """Of two creations of one id the later one is an error; the first one's row stands."""
    values = f"'\\x{digest_of('same').hex()}', 'acme', now(), now(), now() + interval '1 hour', now()"
    columns = "session_digest, tenant_id, created_at, last_activity_at, expires_at, cleanup_at"
    await other_writer.has_done(f"INSERT INTO sessions ({columns}) VALUES ({values})")
    with pytest.raises(SessionExistsError):
        await other_writer.commits_while_waits(manager.create_session("same", tenant_id="evil"))
    assert await manager.resume_session("same", Owner(tenant_id="acme")) is not None


async def test_the_cleanup_passes_over_what_another_writer_holds(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter
) -> None:
    """An expired row that is locked is left to the next run; nobody waits."""
    held, free = await manager.create_session(), await manager.create_session()
    await rows.age_all(timedelta(days=1))
    await other_writer.has_done(f"SELECT 1 FROM sessions WHERE {rows.among([held])} FOR UPDATE")
    assert await asyncio.wait_for(manager.cleanup_stale_sessions(), 5) == 1
    assert await rows.session(free) is None
    assert await rows.session(held) is not None


@pytest.mark.parametrize("call", ["terminate", "clear"])
async def test_a_bulk_end_goes_on_after_a_batch_that_another_writer_emptied(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter, call: str
) -> None:
    """Sessions that somebody else ends meanwhile make a batch smaller, but do not end the work: all are gone."""
    ids = [await manager.create_session(tenant_id="acme") for _ in range(7)]
    await other_writer.has_done(end_of(rows, *ids[:6]))
    bulk = manager.terminate_sessions(tenant_id="acme") if call == "terminate" else manager.clear_all_sessions()
    assert await other_writer.commits_while_waits(bulk) == 1
    assert await rows.count() == 0


@pytest.mark.parametrize("kept", ["held back", "committed"])
async def test_a_bulk_end_waits_for_touches(
    manager: SessionManager, rows: Rows, other_writer: OtherWriter, kept: str
) -> None:
    """Sessions that are being touched are ended by a bulk end too."""
    ids = [await manager.create_session(tenant_id="acme") for _ in range(5)]
    await other_writer.has_done(touch_of(rows, *(ids if kept == "committed" else ids[:1])))
    assert await other_writer.commits_while_waits(manager.terminate_sessions(tenant_id="acme")) == 5
    assert await rows.count() == 0
