"""State against a dict: whatever was done to it by two workers, every answer is the dict's."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from mcp_sessions import SessionEndedError, SessionManager, SessionState, StateLimitError
from tests.support.states import opened

T = TypeVar("T")

MOST_ENTRIES, MOST_BYTES = 3, 40
NAMES = ["a", "b", "c", "Ä", "' OR 1=1 --"]
VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=3,
)


def noting(seen: list[Any], value: Any) -> Callable[[Any], Any]:
    """Return a function that notes what it gets, and returns a value."""

    def function(there: Any) -> Any:
        seen.append(there)
        return value

    return function


class Histories(RuleBasedStateMachine):
    """Histories of the state of one session after the other."""

    loop: ClassVar[asyncio.Runner]
    workers: ClassVar[list[SessionManager]]

    def __init__(self) -> None:
        super().__init__()
        self.begin_anew()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call on the event loop of the test."""
        return self.loop.run(call)

    def begin_anew(self) -> None:
        """Open a session, whose state is empty."""
        self.session = self.run(opened(self.workers[0]))
        self.expected: dict[str, Any] = {}

    def state(self, worker: int) -> SessionState:
        """The state, by way of a worker."""
        return self.workers[worker].state(self.session)

    @rule(name=st.sampled_from(NAMES), value=VALUES, worker=st.integers(0, 1), by_update=st.booleans())
    def store(self, name: str, value: Any, worker: int, *, by_update: bool) -> None:
        """A value is stored, by set or by update, unless that would be too much."""
        state = self.state(worker)
        try:
            if by_update:
                seen: list[Any] = []
                assert self.run(state.update(name, noting(seen, value))) == value
                assert seen == [self.expected.get(name)]
            else:
                self.run(state.set(name, value))
        except StateLimitError:
            assert self.is_too_much(name, value)
        else:
            assert not self.is_too_much(name, value)
            self.expected[name] = value

    def is_too_much(self, name: str, value: Any) -> bool:
        """Whether the state would have more than it may."""
        there = size_of(self.expected[name]) if name in self.expected else 0
        grows = size_of(value) > there
        size = sum(map(size_of, self.expected.values())) - there + size_of(value)
        return len({*self.expected, name}) > MOST_ENTRIES or (grows and size > MOST_BYTES)

    @rule(name=st.sampled_from(NAMES), worker=st.integers(0, 1))
    def delete(self, name: str, worker: int) -> None:
        """A value is removed."""
        self.run(self.state(worker).delete(name))
        self.expected.pop(name, None)

    @rule(worker=st.integers(0, 1))
    def clear(self, worker: int) -> None:
        """All values are removed."""
        self.run(self.state(worker).clear())
        self.expected = {}

    @rule(worker=st.integers(0, 1))
    def end(self, worker: int) -> None:
        """The session ends, and its state with it."""
        assert self.run(self.workers[worker].terminate_digest(self.session.digest))
        try:
            self.run(self.state(1 - worker).all())
        except SessionEndedError:
            self.begin_anew()
        else:
            raise AssertionError("the state of an ended session was read")

    @rule(name=st.sampled_from(NAMES), worker=st.integers(0, 1))
    def everything_is_as_it_should_be(self, name: str, worker: int) -> None:
        """One value, all of them and their sizes are the dict's."""
        state = self.state(worker)
        assert self.run(state.get(name, default="none")) == self.expected.get(name, "none")
        assert self.run(state.all()) == self.expected
        assert self.run(state.sizes()) == {name: size_of(value) for name, value in self.expected.items()}


def size_of(value: Any) -> int:
    """Return how many bytes a value has as JSON."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def test_histories(database_url: str) -> None:
    """Whatever was done before, every answer is the dict's."""
    limits: dict[str, Any] = {"max_state_entries": MOST_ENTRIES, "max_state_size": MOST_BYTES}

    async def opened_workers(stack: AsyncExitStack) -> list[SessionManager]:
        return [await stack.enter_async_context(SessionManager.open(database_url, **limits)) for _ in range(2)]

    bounds = settings(
        max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        here = {"loop": runner, "workers": runner.run(opened_workers(stack))}
        try:
            run_state_machine_as_test(type("Histories", (Histories,), here), settings=bounds)
        finally:
            runner.run(stack.aclose())
