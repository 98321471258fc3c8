"""What state is refused: names and values that cannot be stored, and more than a session may have."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mcp_sessions import InvalidInputError, Session, SessionManager, SessionState, StateLimitError
from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.rows import Rows
from tests.support.states import CALLS, opened


def nested(depth: int) -> Any:
    """Return lists in one another."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def doubled(times: int) -> Any:
    """Return a value that is small in memory and vast as JSON."""
    value: Any = [1]
    for _ in range(times):
        value = [value, value]
    return value


def always(value: Any) -> Callable[[Any], Any]:
    """Return a function that returns this, whatever there was."""
    return lambda _: value


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)

BAD_VALUES: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity": [float("-inf")],
    "lone surrogate": {"a": "\ud800"},
    "lone surrogate in a key": {"\udfff": 1},
    "bytes": b"apples",
    "tuple": ("apples",),
    "set": {"apples"},
    "an object": object(),
    "a number for a key": {1: "apples"},
    "None for a key": [{None: "apples"}],
    "too deep": nested(65),
    "much too deep": nested(200_000),
    "a circle": CIRCLE,
    "a number of thousands of digits": 10**5000,
}

BAD_NAMES: list[Any] = [
    *("", "a" * 257, "a\x00", "a\nb", "\x7f", "\x85", "\u2028", "\ud800", b"cart", 7, None, ["cart"]),
]


@pytest.fixture
async def session(manager: SessionManager) -> Session:
    """A session with a cart in its state."""
    session = await opened(manager)
    await manager.state(session).set("cart", ["apples"])
    return session


async def test_bad_values(manager: SessionManager, session: Session, rows: Rows) -> None:
    """What is no JSON, or would come back as something else, is one clear error, and nothing is stored."""
    state = manager.state(session)
    before = await rows.fetch("SELECT * FROM session_state")
    for bad in BAD_VALUES.values():
        for name in ("cart", "new"):
            with pytest.raises(InvalidInputError, match=r"^a value must"):
                await state.set(name, bad)
            with pytest.raises(InvalidInputError, match=r"^a value must"):
                await state.update(name, always(bad))
    assert await rows.fetch("SELECT * FROM session_state") == before
    await state.set("deep", nested(64))
    assert await state.get("deep") == nested(64)


async def test_bad_names(manager: SessionManager, session: Session, rows: Rows) -> None:
    """A name is 1 to 256 characters without control characters; nothing is read or written by another."""
    state = manager.state(session)
    before = await rows.fetch("SELECT * FROM session_state")
    for bad in BAD_NAMES:
        for call in (state.get(bad), state.set(bad, 1), state.update(bad, lambda _: 1), state.delete(bad)):
            with pytest.raises(InvalidInputError, match=r"^the name of an entry must") as raised:
                await call
            str(raised.value).encode()
    assert await rows.fetch("SELECT * FROM session_state") == before
    for good in ("a" * 256, "\U0001f34e" * 256, " ", "'; DROP TABLE sessions; --", "%", "null"):
        await state.set(good, good)
        assert await state.get(good) == good


async def test_what_has_no_state(manager: SessionManager) -> None:
    """State belongs to a ``Session``; an id, a digest or None has none."""
    nothing: list[Any] = ["an-id", bytes(32), None]
    for bad in nothing:
        with pytest.raises(InvalidInputError, match="resume_session"):
            manager.state(bad)
    with pytest.raises(InvalidInputError, match="takes a function"):
        await manager.state(await opened(manager)).update("cart", 7)  # type: ignore[arg-type]  # the point


# How much


async def refused(setting: str, state: SessionState, name: str, value: Any) -> None:
    """Assert that this value is refused, also as the result of an update, by an error that names the setting."""
    before = await state.all()
    expected = rf"{setting} \(MCP_SESSIONS_{setting.upper()}\) is \d+$"
    with pytest.raises(StateLimitError, match=expected):
        await state.set(name, value)
    with pytest.raises(StateLimitError, match=expected):
        await state.update(name, lambda _: value)
    assert await state.all() == before


async def test_the_limits(open_manager: OpenManager) -> None:
    """A value, the number of entries and all values together are bounded; up to its bound each of them is taken."""
    manager = await open_manager(max_state_value=20, max_state_entries=3, max_state_size=50)
    state = manager.state(await opened(manager))
    await state.set("a", "x" * 18)
    await refused("max_state_value", state, "a", "x" * 19)
    await refused("max_state_value", state, "a", "ä" * 10)
    await refused("max_state_value", state, "a", doubled(100))
    await state.set("b", "x" * 18)
    await refused("max_state_size", state, "c", "x" * 9)
    await state.set("c", "x" * 8)
    await refused("max_state_entries", state, "d", 1)
    await state.set("c", "y" * 8)
    await state.delete("a")
    await state.set("d", "x" * 18)
    assert await state.sizes() == {"b": 20, "c": 10, "d": 20}


async def test_limits_that_were_lowered_let_state_shrink(open_manager: OpenManager) -> None:
    """What a session has beyond a new limit stays, can be read, made smaller and removed, and does not grow."""
    generous, strict = await open_manager(), await open_manager(max_state_entries=1, max_state_size=10)
    session = await opened(generous)
    for name in ("a", "b", "c"):
        await generous.state(session).set(name, "x" * 10)
    state = strict.state(session)
    await refused("max_state_size", state, "a", "x" * 11)
    await refused("max_state_entries", state, "d", 1)
    await state.set("a", "y" * 10)
    await state.set("b", 1)
    await state.delete("c")
    assert await state.all() == {"a": "y" * 10, "b": 1}


async def test_workers_together_pass_no_limit(open_manager: OpenManager) -> None:
    """However many store at the same time on several workers, as many as the limit says succeed, and no more."""
    workers = [await open_manager(max_state_entries=10, max_state_size=60) for _ in range(3)]
    for value, fitting in ((1, 10), ("x" * 18, 3)):
        session = await opened(workers[0])
        calls = [workers[n % 3].state(session).set(f"entry {n}", value) for n in range(36)]
        calls += [workers[n % 3].state(session).update(f"entry {n}", always(value)) for n in range(36)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        stored = await workers[0].state(session).all()
        assert len(stored) == fitting
        for n, answer in enumerate(answers):
            assert isinstance(answer, StateLimitError) == (f"entry {n % 36}" not in stored)


async def test_one_that_is_too_much_costs_nobody_else(open_manager: OpenManager) -> None:
    """Of updates that meet in one step, each that fits is made, and only those that do not are refused."""
    manager = await open_manager(max_state_size=30)
    state = manager.state(await opened(manager))
    await state.set("other", "x" * 18)

    def longer(by: int) -> Any:
        return lambda text: (text or "") + "x" * by

    answers = await asyncio.gather(*(state.update("text", longer(by)) for by in (4, 20, 4)), return_exceptions=True)
    assert [type(each).__name__ for each in answers] == ["str", "StateLimitError", "str"]
    assert await state.get("text") == "x" * 8


async def test_of_many_values_for_one_entry_the_last_that_fits_stays(open_manager: OpenManager) -> None:
    """Values that are stored under one name at once take effect in their order; one that is refused is left out."""
    manager = await open_manager(max_state_size=20)
    state = manager.state(await opened(manager))
    values = ["a", "b", "x" * 40, "c", "x" * 50]
    answers = await asyncio.gather(*(state.set("letter", value) for value in values), return_exceptions=True)
    assert [type(each).__name__ for each in answers] == ["NoneType"] * 2 + ["StateLimitError", "NoneType"] + [
        "StateLimitError"
    ]
    assert await state.get("letter") == "c"


async def test_a_thousand_calls_at_once(manager: SessionManager, session: Session) -> None:
    """Every kind of call at once, on one session, is answered."""
    state = manager.state(session)
    await together(*(call(state) for _ in range(140) for call in CALLS.values()))
