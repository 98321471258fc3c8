"""Patience: every call is answered by its own deadline, and what holds one up, or is slow, costs nobody else."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, text

from mcp_sessions import DatabaseHeldError, DatabaseUnavailableError, Owner, SessionExistsError, SessionManager
from mcp_sessions.client_settings import Values
from mcp_sessions.digests import digest_of
from mcp_sessions.records.events import CREATED_BY_TOOL
from mcp_sessions.state import KeyValues, SessionState
from tests.support.concurrency import together
from tests.support.managers import ON_POSTGRES, ON_SQLITE, OpenManager, eventually
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows

T = TypeVar("T")

SHORT = timedelta(milliseconds=500)
LIMIT = timedelta(seconds=1.5)
"""Time for a transaction of many statements, on a busy machine too."""
PATIENCE = 1.0
"""Seconds that a call may take where reaching the database and a statement may take ``SHORT`` each."""

LATE = 1.0
"""Seconds by which a busy machine may be late."""

POSTGRES_EITHER_WAY = pytest.mark.parametrize("database_url", ["postgres", "pgbouncer"], indirect=True)

Use = Callable[[SessionManager, str], Coroutine[Any, Any, Any]]

USES: dict[str, Use] = {
    "resume": lambda manager, session_id: manager.resume_session(session_id, Owner()),
    "touch": lambda manager, session_id: manager.touch_session(session_id),
    "terminate": lambda manager, session_id: manager.terminate_session(session_id, owner=Owner()),
}

CALLS: dict[str, Use] = {
    **USES,
    "create": lambda manager, _: manager.create_session(),
    "valid": lambda manager, session_id: manager.is_session_valid(session_id),
    "handshake": lambda manager, session_id: manager.get_handshake(digest_of(session_id)),
    "digests": lambda manager, session_id: manager.touch_digests([digest_of(session_id)]),
    "list": lambda manager, _: manager.list_sessions(),
    "count": lambda manager, _: manager.get_active_session_count(),
    "stats": lambda manager, _: manager.stats(),
    "events": lambda manager, _: manager.list_events(),
}


async def timed(call: Awaitable[T]) -> tuple[T | BaseException, float]:
    """Return what a call came to, and how many seconds it took."""
    started = time.monotonic()
    try:
        return await call, time.monotonic() - started
    except DatabaseUnavailableError as fault:
        return fault, time.monotonic() - started


async def created(manager: SessionManager, count: int) -> Sequence[str]:
    """Create sessions."""
    return await together(*(manager.create_session() for _ in range(count)))


# Rows that somebody else has locked


@POSTGRES_EITHER_WAY
@pytest.mark.parametrize("touch_interval", [timedelta(0), timedelta(minutes=1)], ids=["every use", "interval"])
@pytest.mark.parametrize("name", USES)
async def test_a_locked_row_costs_its_own_caller_alone(
    open_manager: OpenManager, rows: Rows, touch_interval: timedelta, name: str
) -> None:
    """Of fifty calls that share a statement, the one whose row stays locked fails, in time, and nobody waits for it."""
    manager = await open_manager(touch_interval=touch_interval, statement_timeout=SHORT)
    held, *free = await created(manager, 50)
    await rows.age_all(timedelta(minutes=10))
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among([held])} FOR UPDATE"):
        calls = [asyncio.ensure_future(timed(USES[name](manager, each))) for each in (*free[:20], held, *free[20:])]
        outcome, seconds = await calls.pop(20)
        assert isinstance(outcome, DatabaseHeldError)
        assert SHORT.total_seconds() <= seconds < SHORT.total_seconds() + LATE
        assert all(call.done() and call.result()[0] for call in calls)
        assert max(call.result()[1] for call in calls) < seconds
        assert await manager.is_session_valid(held)
    assert await USES[name](manager, held)


CHANGES: dict[str, Use] = {
    "settings": lambda manager, session_id: manager.change_client_settings(digest_of(session_id), adding),
    "state": lambda manager, session_id: state_of(manager, session_id, lambda state: state.set("a", 1)),
    "update": lambda manager, session_id: state_of(manager, session_id, lambda state: state.update("a", str)),
    "clear": lambda manager, session_id: state_of(manager, session_id, lambda state: state.clear()),
}


def adding(values: Values) -> Values:
    """One setting more."""
    return {**values, f"level-{len(values)}": "debug"}


async def state_of(manager: SessionManager, session_id: str, call: Callable[[SessionState], Awaitable[Any]]) -> bool:
    """Do something to a session's state."""
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    await call(manager.state(session))
    return True


@pytest.mark.slow
@POSTGRES_EITHER_WAY
@pytest.mark.parametrize("name", CHANGES)
async def test_locked_rows_take_no_connection_from_other_changes(
    open_manager: OpenManager, rows: Rows, name: str
) -> None:
    """However many rows stay locked, changes that wait for them fail in time, and those of other sessions go on."""
    manager = await open_manager(statement_timeout=LIMIT)
    *held, free = await created(manager, 9)
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among(held)} FOR UPDATE"):
        calls = [asyncio.ensure_future(timed(CHANGES[name](manager, each))) for each in held]
        await asyncio.sleep(LIMIT.total_seconds() / 5)
        for each in CHANGES.values():
            answer, seconds = await timed(each(manager, free))
            assert answer
            assert seconds < LATE
        for outcome, seconds in await asyncio.gather(*calls):
            assert isinstance(outcome, DatabaseHeldError)
            assert seconds < LIMIT.total_seconds() + LATE
    assert await CHANGES[name](manager, held[0])


@pytest.mark.slow
@POSTGRES_EITHER_WAY
async def test_bulk_ends_that_wait_take_no_connection_from_others(open_manager: OpenManager, rows: Rows) -> None:
    """Many log-outs that wait for locked rows keep no other change, and no other log-out, waiting for long."""
    manager = await open_manager(statement_timeout=LIMIT)
    *held, free = [await manager.create_session(subject=f"user {number}") for number in range(9)]
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among(held)} FOR UPDATE"):
        ends = [
            asyncio.ensure_future(timed(manager.terminate_sessions(subject=f"user {number}"))) for number in range(8)
        ]
        changes = [change(manager, free) for change in CHANGES.values()]
        for call in (*changes, manager.terminate_sessions(subject="user 8")):
            answer, seconds = await timed(call)
            assert answer
            assert seconds < LATE
        assert all(isinstance(outcome, DatabaseHeldError) for outcome, _ in await asyncio.gather(*ends))


@pytest.mark.slow
@POSTGRES_EITHER_WAY
@pytest.mark.parametrize("name", ["terminate", "clear"])
async def test_a_bulk_end_ends_all_but_what_stays_locked(open_manager: OpenManager, rows: Rows, name: str) -> None:
    """Two rows that somebody keeps locked cost a logout these two, and the error tells how many have ended."""
    manager = await open_manager(statement_timeout=LIMIT, cleanup_batch_size=2)
    ids = [await manager.create_session(tenant_id="acme") for _ in range(9)]
    held = sorted(ids, key=digest_of)[3:5]
    bulk = partial(manager.terminate_sessions, tenant_id="acme") if name == "terminate" else manager.clear_all_sessions
    counted: list[int] = []
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among(held)} FOR UPDATE"):
        with pytest.raises(DatabaseHeldError, match="7 sessions have ended, and others have not"):
            await bulk(progress=counted.append)
        assert {each for each in ids if await manager.is_session_valid(each)} == set(held)
        assert counted[-1] == 7
    assert await bulk() == 2


@pytest.mark.slow
@POSTGRES_EITHER_WAY
async def test_rows_that_come_free_one_after_the_other_end(open_manager: OpenManager, rows: Rows) -> None:
    """What several transactions hold in turn, each shortly, ends with the rest, however the waits add up."""
    manager = await open_manager(statement_timeout=LIMIT)
    ids = sorted([await manager.create_session(tenant_id="acme") for _ in range(4)], key=digest_of)

    async def hold(session_id: str, seconds: float) -> None:
        async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among([session_id])} FOR UPDATE"):
            is_held.set()
            await asyncio.sleep(seconds)

    is_held = asyncio.Event()
    holders = [asyncio.ensure_future(hold(each, 0.2 + 0.15 * place)) for place, each in enumerate(ids[:3])]
    await is_held.wait()
    assert await manager.terminate_sessions(tenant_id="acme") == 4
    await asyncio.gather(*holders)


KEYS: dict[str, Callable[[KeyValues, str], Awaitable[Any]]] = {
    "put": lambda values, key: values.put("tokens", key, "new", seconds=60),
    "claim": lambda values, key: values.claim("tokens", key, lifetime=timedelta(minutes=1)),
    "delete": lambda values, key: values.delete("tokens", [key]),
}


@POSTGRES_EITHER_WAY
@pytest.mark.parametrize("name", KEYS)
async def test_a_locked_value_costs_its_own_caller_alone(open_manager: OpenManager, rows: Rows, name: str) -> None:
    """Of joined calls on the key-value store, the one whose row stays locked fails, and nobody waits for it."""
    manager = await open_manager(statement_timeout=SHORT)
    values = manager.key_values
    await values.put("tokens", "held", "old", seconds=None)
    async with rows.transaction("SELECT 1 FROM key_values FOR UPDATE"):
        first = asyncio.ensure_future(KEYS[name](values, "first"))
        keys = ["held", *(f"free {number}" for number in range(8))]
        held, *free = await asyncio.gather(*(timed(KEYS[name](values, key)) for key in keys))
        await first
    assert isinstance(held[0], DatabaseHeldError)
    assert SHORT.total_seconds() <= held[1] < SHORT.total_seconds() + LATE
    assert not any(isinstance(outcome, BaseException) for outcome, _ in free)
    assert not isinstance((await timed(KEYS[name](values, "held")))[0], BaseException)


@POSTGRES_EITHER_WAY
async def test_the_cleanup_passes_over_values_that_are_held(open_manager: OpenManager, rows: Rows) -> None:
    """An expired value that somebody has locked is left to the next run, which takes it; all others go."""
    manager = await open_manager(statement_timeout=SHORT)
    for key in ("one", "other", "third"):
        await manager.key_values.put("tokens", key, "x", seconds=0.001)
    async with rows.transaction("SELECT 1 FROM key_values LIMIT 1 FOR UPDATE"):
        await manager.cleanup_stale_sessions()
        assert await rows.value("SELECT count(*) FROM key_values") == 1
    await manager.cleanup_stale_sessions()
    assert await rows.value("SELECT count(*) FROM key_values") == 0


@POSTGRES_EITHER_WAY
async def test_a_handle_that_another_transaction_is_about_to_store_costs_its_own_caller_alone(
    open_manager: OpenManager, rows: Rows
) -> None:
    """Of sessions that tools create together, the one whose id is being taken elsewhere waits alone."""
    manager = await open_manager(statement_timeout=SHORT)
    open_session = partial(manager.create_session, reason=CREATED_BY_TOOL)
    values = f"'\\x{digest_of('same').hex()}', 'acme', now(), now(), now() + interval '1 hour', now()"
    columns = "session_digest, tenant_id, created_at, last_activity_at, expires_at, cleanup_at"
    async with rows.transaction(f"INSERT INTO sessions ({columns}) VALUES ({values})"):
        first = asyncio.ensure_future(open_session())
        held, *free = await asyncio.gather(timed(open_session("same")), *(timed(open_session()) for _ in range(6)))
        await first
    assert isinstance(held[0], DatabaseHeldError)
    assert not any(isinstance(outcome, BaseException) for outcome, _ in free)


@ON_POSTGRES
@pytest.mark.parametrize("name", USES)
async def test_a_call_goes_on_as_soon_as_the_row_is_free(open_manager: OpenManager, rows: Rows, name: str) -> None:
    """Whoever waits for a row has it soon after the other transaction has ended, not at the end of its patience."""
    manager = await open_manager(touch_interval=timedelta(0))
    (session_id,) = await created(manager, 1)
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among([session_id])} FOR UPDATE"):
        call = asyncio.ensure_future(USES[name](manager, session_id))
        assert not (await asyncio.wait([call], timeout=0.2))[0]
    answer, seconds = await timed(call)
    assert answer
    assert seconds < LATE


@ON_POSTGRES
async def test_a_locked_row_holds_up_no_question_about_many(open_manager: OpenManager, rows: Rows) -> None:
    """A worker that asks about all its sessions is answered soon: the one whose row is locked lives all the same."""
    manager = await open_manager(touch_interval=timedelta(0))
    held, *free = await created(manager, 20)
    await rows.age_all(timedelta(minutes=10))
    before = await rows.session(held)
    digests = [digest_of(each) for each in (held, *free)]
    async with rows.transaction(f"SELECT 1 FROM sessions WHERE {rows.among([held])} FOR UPDATE"):
        answer, seconds = await timed(manager.touch_digests([*digests, bytes(32)]))
    assert answer == frozenset(digests)
    assert seconds < LATE
    assert await rows.session(held) == before


@POSTGRES_EITHER_WAY
async def test_an_id_that_another_transaction_is_about_to_store_costs_its_own_caller_alone(
    open_manager: OpenManager, rows: Rows
) -> None:
    """Of fifty creations, the one whose id stands in an open transaction waits for its end; the others do not."""
    manager = await open_manager()
    await created(manager, 1)
    values = f"'\\x{digest_of('held').hex()}', now(), now(), now() + interval '1 hour', now()"
    columns = "session_digest, created_at, last_activity_at, expires_at, cleanup_at"
    insert = f"INSERT INTO sessions ({columns}) VALUES ({values})"
    async with rows.transaction(insert):
        ids = [f"session-{number}" for number in range(49)]
        held = asyncio.ensure_future(manager.create_session("held"))
        assert await asyncio.wait_for(together(*map(manager.create_session, ids)), 5) == ids
        assert await asyncio.wait_for(manager.create_session("later"), 5)
        assert not held.done()
    assert await held == "held"  # the other transaction was rolled back
    await rows.execute(insert.replace(digest_of("held").hex(), digest_of("taken").hex()))
    with pytest.raises(SessionExistsError):
        await manager.create_session("taken")


# The deadline


BEHIND_A_LOCK = {
    "sqlite": ("create", *USES, "digests"),  # its reads wait for no lock
    "postgres": ("create", *USES, "digests", "valid", "handshake"),
}


@pytest.mark.parametrize(
    ("database_url", "name"),
    [(engine, name) for engine, names in BEHIND_A_LOCK.items() for name in names],
    indirect=["database_url"],
)
@pytest.mark.slow
async def test_a_call_behind_many_others_fails_by_its_own_deadline(
    open_manager: OpenManager, rows: Rows, name: str
) -> None:
    """Behind fifteen statements that wait for a lock in vain, a call waits no longer than the first one may."""
    limit = {"sqlite_busy_timeout" if rows.on_sqlite else "connect_timeout": SHORT}
    manager = await open_manager(max_batch=1, statement_timeout=SHORT, touch_interval=timedelta(0), **limit)
    ids = await created(manager, 16)
    lock = "DELETE FROM sessions WHERE false" if rows.on_sqlite else "LOCK TABLE sessions, session_handshakes"
    async with rows.transaction(lock):
        outcomes = await together(*(timed(CALLS[name](manager, each)) for each in ids))
    assert all(isinstance(outcome, DatabaseUnavailableError) for outcome, _ in outcomes)
    assert max(seconds for _, seconds in outcomes) < PATIENCE + LATE
    untouched = [each for each, (outcome, _) in zip(ids, outcomes, strict=True) if "is unknown" not in str(outcome)]
    assert untouched
    assert all(await together(*(manager.is_session_valid(each) for each in untouched)))


@ON_POSTGRES
@pytest.mark.slow
async def test_a_frozen_server_costs_no_call_more_than_its_patience(
    open_manager: OpenManager, postgres_server: PostgresServer
) -> None:
    """Calls of every kind, whenever they are made and however many, fail by their deadlines, and it heals."""
    manager = await open_manager(
        connect_timeout=SHORT, statement_timeout=SHORT, max_batch=4, touch_interval=timedelta(0)
    )
    (session_id,) = await created(manager, 1)
    await together(*(call(manager, session_id) for name, call in CALLS.items() if name != "terminate"))
    postgres_server.freeze()
    calls = []
    for _ in range(4):
        calls += [asyncio.ensure_future(timed(call(manager, session_id))) for call in CALLS.values() for _ in range(9)]
        await asyncio.wait(calls, timeout=0.3)
    outcomes = await together(*calls)
    assert all(isinstance(outcome, DatabaseUnavailableError) for outcome, _ in outcomes)
    assert max(seconds for _, seconds in outcomes) < PATIENCE + LATE
    postgres_server.thaw()
    assert await manager.create_session()


@ON_POSTGRES
@pytest.mark.slow
async def test_a_unit_of_work_of_many_statements_has_one_deadline(open_manager: OpenManager) -> None:
    """Statements that are quick enough each may not add up beyond the patience of the call."""
    manager = await open_manager(connect_timeout=SHORT, statement_timeout=SHORT)

    def unit(connection: Connection) -> None:
        for _ in range(5):
            connection.execute(text("SELECT pg_sleep(0.3)"))

    for run in (manager.database.read, manager.database.write):
        outcome, seconds = await timed(run(unit))
        assert isinstance(outcome, DatabaseUnavailableError)
        assert "whether what was asked for took effect is unknown" in str(outcome)
        assert seconds < PATIENCE + LATE


@ON_SQLITE
async def test_the_busy_timeout_is_the_whole_wait_of_a_lone_call(open_manager: OpenManager, rows: Rows) -> None:
    """A call that waits for another process alone has the busy timeout, not its whole patience."""
    manager = await open_manager(sqlite_busy_timeout=SHORT)
    async with rows.transaction("DELETE FROM sessions WHERE false"):
        outcome, seconds = await timed(manager.create_session())
    assert isinstance(outcome, DatabaseUnavailableError)
    assert SHORT.total_seconds() <= seconds < SHORT.total_seconds() + LATE


# Connections


def slowly(rows: Rows) -> Callable[[Connection], Any]:
    """A unit of work that keeps its connection for about a second."""
    numbers = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 1000000)"
    statement = text(f"{numbers} SELECT max(n) FROM number" if rows.on_sqlite else "SELECT pg_sleep(1.2)")
    return lambda connection: connection.execute(statement).scalar_one()


@pytest.mark.slow
async def test_slow_reports_take_no_connection_from_a_request(open_manager: OpenManager, rows: Rows) -> None:
    """While slow reads have every connection that they can get, a new manager's requests are served at once."""
    limit = timedelta(milliseconds=100) if rows.on_sqlite else timedelta(seconds=1)
    manager = await open_manager(pool_size=9, touch_interval=timedelta(0), connect_timeout=limit)
    slow = [asyncio.ensure_future(manager.database.read(slowly(rows))) for _ in range(8)]
    await eventually(lambda: manager.database.connections_in_use > 0, "a slow report")
    session_id = await manager.create_session()
    assert all([await CALLS[name](manager, session_id) for name in ("resume", "valid", "digests")])
    assert await manager.get_handshake(digest_of(session_id)) is None
    assert await manager.terminate_session(session_id)
    assert not all(each.done() for each in slow)
    await asyncio.gather(*slow, return_exceptions=True)


@pytest.mark.slow
async def test_slow_reports_take_no_connection_from_other_reads(open_manager: OpenManager, rows: Rows) -> None:
    """However many reports are slow, what requests read beside their hot statements finds a connection at once."""
    limit = timedelta(milliseconds=100) if rows.on_sqlite else timedelta(seconds=1)
    manager = await open_manager(connect_timeout=limit)
    (session_id,) = await created(manager, 1)
    session = await manager.get_session_metadata(session_id)
    assert session is not None
    slow = [asyncio.ensure_future(manager.database.report(slowly(rows))) for _ in range(3)]
    await eventually(lambda: manager.database.connections_in_use > 0, "a slow report")
    await manager.check_ready()
    assert await manager.state(session).all() == {}
    assert await manager.key_values.get("tokens", "key") is None
    assert await manager.get_client_settings(session.digest) is not None
    assert not any(each.done() for each in slow[1:])
    await asyncio.gather(*slow, return_exceptions=True)
