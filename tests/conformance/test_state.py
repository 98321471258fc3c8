"""The state of sessions: what comes back, whose it is, and that it ends with its session on every path."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import Owner, Session, SessionEndedError, SessionManager
from tests.support.concurrency import together
from tests.support.managers import ON_SQLITE, WITH_PGBOUNCER, OpenManager
from tests.support.owners import ACME, MISMATCHES
from tests.support.rows import Rows
from tests.support.states import CALLS, one_more, opened
from tests.support.trail import Trail

caller: ContextVar[str] = ContextVar("caller")

NOTHING: dict[str, int] = {}

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**80, 1.5, -0.0, 1e300, "", "apples", "\x00\x1f\u2028 \U0001f34e ä"),
    *([], {}, [[]], {"": None}, {"a": {"b": [1, "2", None]}, "\x00": "\\u0000"}),
]


@WITH_PGBOUNCER
async def test_what_was_stored_comes_back_on_any_worker(open_manager: OpenManager) -> None:
    """Any JSON value comes back as it was given, with its types, from whichever worker is asked."""
    one, other = await open_manager(), await open_manager()
    session = await opened(one, ACME)
    await together(*(one.state(session).set(f"value {n}", value) for n, value in enumerate(VALUES)))
    state = other.state(session)
    assert repr([await state.get(f"value {n}", "none") for n in range(len(VALUES))]) == repr(VALUES)
    every = await state.all()
    assert repr([every.pop(f"value {n}") for n in range(len(VALUES))]) == repr(VALUES)
    assert every == {}


async def test_what_is_not_there(manager: SessionManager) -> None:
    """An absent value is the default, to delete it is no error, and a stored None is not absent."""
    state = manager.state(await opened(manager))
    assert await state.get("cart") is None
    assert await state.get("cart", default=[]) == []
    assert await state.all() == await state.sizes() == {}
    await state.delete("cart")
    await state.clear()
    await state.set("cart", None)
    assert await state.get("cart", default=[]) is None
    assert await state.all() == {"cart": None}


async def test_changes_of_one_entry_leave_the_others(manager: SessionManager) -> None:
    """Set, update and delete concern one name of one session; clear concerns one session."""
    one, other = [manager.state(await opened(manager)) for _ in range(2)]
    for state in (one, other):
        await state.set("cart", ["apples"])
        await state.set("Cart", ["pears"])
    assert await one.update("cart", lambda cart: [*cart, "plums"]) == ["apples", "plums"]
    await one.delete("Cart")
    assert await one.all() == {"cart": ["apples", "plums"]}
    assert await one.sizes() == {"cart": len('["apples","plums"]')}
    await one.clear()
    assert await one.all() == {}
    assert await other.all() == {"cart": ["apples"], "Cart": ["pears"]}


async def test_what_a_caller_changes_later_is_not_stored(manager: SessionManager) -> None:
    """A value is stored as it is at the call, and what comes back is the caller's own."""
    state = manager.state(await opened(manager))
    cart = ["apples"]
    await state.set("cart", cart)
    cart.append("pears")
    (await state.get("cart")).append("plums")
    (await state.update("cart", lambda stored: stored)).append("plums")
    assert await state.get("cart") == ["apples"]


# Whose it is


@pytest.mark.slow
async def test_another_owner_has_no_state(manager: SessionManager, rows: Rows) -> None:
    """Every call for another owner is the error of a session that is gone, and reads and changes nothing."""
    for owner, other in MISMATCHES.values():
        session = await opened(manager, owner)
        await manager.state(session).set("cart", ["apples"])
        before = await rows.fetch("SELECT * FROM session_state"), await rows.session(session)
        calls = [call(manager.state(replace(session, owner=other))) for call in CALLS.values()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in answers} == {SessionEndedError}
        assert (await rows.fetch("SELECT * FROM session_state"), await rows.session(session)) == before


async def test_calls_of_the_owner_are_not_mixed_up_with_others(manager: SessionManager) -> None:
    """Calls that share statements with those of another owner on the same session are answered each by itself."""
    session = await opened(manager, ACME)
    foreign = replace(session, owner=Owner("globex"))
    mine, others = manager.state(session), manager.state(foreign)
    calls = [call(state) for state in (mine, others) for call in (CALLS["set"], CALLS["update"], CALLS["get"])]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in answers[3:]] == [SessionEndedError] * 3
    assert not any(isinstance(each, Exception) for each in answers[:3])


# Until when


async def by_hand(_: SessionManager, session: Session, rows: Rows) -> None:
    """Delete a session in SQL, as an operator does: on SQLite without foreign keys."""
    await rows.execute(f"DELETE FROM sessions WHERE {rows.among([session])}")


async def by_sweep(manager: SessionManager, session: Session, rows: Rows) -> None:
    """Let a session expire, and have it swept."""
    await rows.age(session, timedelta(hours=1))
    assert await manager.cleanup_stale_sessions() == 1


ENDS: dict[str, Callable[[SessionManager, Session, Rows], Awaitable[Any]]] = {
    "terminated": lambda manager, session, _: manager.terminate_digest(session.digest),
    "by its owner": lambda manager, session, _: manager.terminate_digest(session.digest, owner=ACME),
    "revoked": lambda manager, _, __: manager.terminate_sessions(tenant_id="acme"),
    "cleared": lambda manager, _, __: manager.clear_all_sessions(),
    "swept": by_sweep,
    "deleted by hand": by_hand,
}


async def test_what_a_person_is_shown_is_recorded(manager: SessionManager, trail: Trail) -> None:
    """All values, with an event for each time that says who and why; of a session that is not live, neither."""
    session = await opened(manager, ACME)
    assert await manager.show_state(session) == {}
    await manager.state(session).set("cart", ["apples"])
    assert await manager.show_state(session, reason="ticket 7", actor="application") == {"cart": ["apples"]}
    events = await trail.events(kind="state_read")
    assert [(each["reason"], each["actor"], each["is_end"]) for each in events] == [
        ("shown", "operator", None),
        ("ticket 7", "application", None),
    ]
    assert {each["subject"] for each in events} == {ACME.subject}
    for owner in (Owner(), replace(ACME, tenant_id="globex")):
        with pytest.raises(SessionEndedError):
            await manager.show_state(replace(session, owner=owner))
    await manager.terminate_digest(session.digest)
    with pytest.raises(SessionEndedError):
        await manager.show_state(session)
    assert len(await trail.events(kind="state_read")) == 2
    assert [each.kind for each in await manager.list_events()][:2] == ["terminated", "state_read"]


async def test_state_ends_with_its_session(open_manager: OpenManager, rows: Rows) -> None:
    """Whatever ends a session removes its state, and no call on any worker brings any of it back."""
    one, other = await open_manager(), await open_manager()
    for end in ENDS.values():
        session = await opened(one, ACME)
        for name in ("cart", "visits"):
            await one.state(session).set(name, 1)
        await end(one, session, rows)
        await assert_gone(other, session, rows)


async def assert_gone(manager: SessionManager, session: Session, rows: Rows) -> None:
    """There is no state left, and no call finds or leaves any."""
    assert await rows.count("session_state") == 0
    answers = await asyncio.gather(*(call(manager.state(session)) for call in CALLS.values()), return_exceptions=True)
    assert {type(each) for each in answers} == {SessionEndedError}
    assert await rows.count("session_state") == 0


async def test_an_expired_session_has_no_state(manager: SessionManager, rows: Rows) -> None:
    """From its expiry on, swept or not, every call is the error of a session that is gone."""
    session = await opened(manager, ACME)
    await manager.state(session).set("cart", 1)
    moved = "'now', '-1 seconds'" if rows.on_sqlite else ""
    past = f"strftime('%Y-%m-%d %H:%M:%f', {moved})" if rows.on_sqlite else "now() - interval '1 second'"
    await rows.execute(f"UPDATE sessions SET expires_at = {past}")
    for call in CALLS.values():
        with pytest.raises(SessionEndedError):
            await call(manager.state(session))
    assert await rows.count("session_state") == 1


async def test_another_life_of_an_id_has_state_of_its_own(manager: SessionManager) -> None:
    """A session that begins anew under the id of an ended one has no state, and the old one's calls do not reach it."""
    first = await opened(manager, session_id="same")
    await manager.state(first).set("cart", ["apples"])
    await manager.terminate_session("same")
    second = await opened(manager, session_id="same")
    assert await manager.state(second).all() == {}
    for call in CALLS.values():
        with pytest.raises(SessionEndedError):
            await call(manager.state(first))
    assert await manager.state(second).all() == {}


@ON_SQLITE
async def test_a_session_that_was_replaced_by_hand_has_no_state(manager: SessionManager, rows: Rows) -> None:
    """Where somebody replaces a session's row without foreign keys, the new one has none of the old one's state."""
    session = await opened(manager, ACME)
    await manager.state(session).set("cart", 1)
    await rows.execute("REPLACE INTO sessions SELECT * FROM sessions")
    assert await manager.state(session).all() == {}


async def test_state_outlives_the_process_and_activity(open_manager: OpenManager, rows: Rows) -> None:
    """State that is old is still there as long as its session is live, for a manager that opened later."""
    session_id = await (one := await open_manager()).create_session(tenant_id="acme")
    session = await one.resume_session(session_id, Owner("acme"))
    assert session is not None
    await one.state(session).set("cart", ["apples"])
    await rows.age(session_id, timedelta(minutes=20))
    later = await (other := await open_manager()).resume_session(session_id, Owner("acme"))
    assert later is not None
    assert await other.state(later).get("cart") == ["apples"]


async def test_state_is_no_activity(open_manager: OpenManager, rows: Rows) -> None:
    """Calls on state move neither the recorded activity nor the expiry: the use of the session did."""
    manager = await open_manager(touch_interval=timedelta(0))
    session = await opened(manager, ACME)
    before = await rows.session(session)
    for call in CALLS.values():
        await call(manager.state(session))
    assert await rows.session(session) == before


# Updates


@WITH_PGBOUNCER
async def test_no_update_is_lost(open_manager: OpenManager) -> None:
    """Twenty callers on four workers who add one each make twenty, and each was told another number."""
    workers = [await open_manager() for _ in range(4)]
    session = await opened(workers[0])
    told = await together(*(workers[n % 4].state(session).update("visits", one_more) for n in range(20)))
    assert sorted(told) == list(range(1, 21))
    assert await workers[0].state(session).get("visits") == 20


async def test_a_function_holds_nothing_and_may_run_twice(manager: SessionManager, rows: Rows) -> None:
    """While the function runs, anybody can write; it is called again with what was stored meanwhile."""
    state = manager.state(await opened(manager))
    await state.set("visits", 1)
    seen: list[int] = []

    def interrupted(visits: int) -> int:
        seen.append(visits)
        if len(seen) == 1:
            elsewhere = rows.execute("UPDATE session_state SET value = '41', version = version - 1")
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, elsewhere).result()
        return visits + 1

    assert await state.update("visits", interrupted) == 42
    assert seen == [1, 41]


async def test_a_value_that_was_removed_and_stored_again_is_another_one(manager: SessionManager, rows: Rows) -> None:
    """No value has the version of an earlier one: an update that read that one has lost, and reads again."""
    state = manager.state(await opened(manager))
    versions = set()
    for _ in range(5):
        await state.set("cart", [])
        versions.add(await rows.value("SELECT version FROM session_state"))
        await state.delete("cart")
    assert len(versions) == 5


async def test_functions_that_fail_change_nothing(manager: SessionManager, rows: Rows) -> None:
    """A function that raises gets its own error, one that is async or returns no JSON a clear one; others go on."""
    state = manager.state(await opened(manager))
    await state.set("visits", 1)

    async def later(visits: int) -> int:
        return visits + 1

    failing: list[Callable[[int], Any]] = [lambda _: NOTHING["missing"], lambda _: float("nan"), later]
    calls = [state.update("visits", function) for function in (one_more, *failing, one_more)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each).__name__ for each in answers] == [
        *("int", "KeyError", "InvalidInputError", "InvalidInputError", "int")
    ]
    assert await state.get("visits") == 3
    before = await rows.fetch("SELECT * FROM session_state")
    for function in failing:
        with pytest.raises((KeyError, ValueError)):
            await state.update("visits", function)
    assert await rows.fetch("SELECT * FROM session_state") == before


async def test_a_function_runs_in_the_context_of_its_caller(manager: SessionManager) -> None:
    """Whoever's call carries an update of others along, each function sees its own caller's context."""
    state = manager.state(await opened(manager))

    async def told(name: str) -> Any:
        caller.set(name)
        return await state.update("callers", lambda there: [*(there or []), caller.get()])

    names = [f"caller {n}" for n in range(5)]
    assert (await together(*map(told, names)))[-1] == names


# Joined


async def test_calls_at_the_same_time_share_statements(
    manager: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred calls at once need a handful of statements, one alone needs one; an update alone needs two."""
    counted: list[str] = []
    of_this_engine = type(manager._state_calls._states)
    for name in ("find", "change", "whole"):
        original = getattr(of_this_engine, name)

        async def counting(*arguments: Any, name: str = name, original: Any = original) -> Any:
            counted.append(name)
            return await original(*arguments)

        monkeypatch.setattr(of_this_engine, name, counting)
    states = [manager.state(await opened(manager)) for _ in range(5)]
    for call, expected in (
        *(("get", ["find"]), ("set", ["change"]), ("delete", ["change"])),
        *(("all", ["whole"]), ("update", ["find", "change"])),
    ):
        counted.clear()
        await CALLS[call](states[0])
        assert counted == expected
        counted.clear()
        await together(*(CALLS[call](states[n % 5]) for n in range(200)))
        assert len(counted) <= 3 * len(expected)


@pytest.mark.parametrize("pool_size", [9, 10])
async def test_the_smallest_pools_serve_state(open_manager: OpenManager, pool_size: int) -> None:
    """With the smallest pools, calls on state and all other calls go on side by side."""
    manager = await open_manager(pool_size=pool_size, touch_interval=timedelta(0), connect_timeout=timedelta(seconds=2))
    session_ids = [await manager.create_session() for _ in range(3)]
    sessions = [await manager.resume_session(each, Owner()) for each in session_ids]
    states = [manager.state(each) for each in sessions if each is not None]
    for _ in range(3):
        others = [manager.touch_session(each) for each in session_ids]
        others += [manager.is_session_valid(each) for each in session_ids]
        await together(*(call(state) for state in states for call in CALLS.values()), *others, manager.list_sessions())
