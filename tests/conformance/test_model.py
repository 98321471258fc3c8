"""The manager against a simple model of what it should do, over arbitrary histories.

Hypothesis makes up histories of two workers, some sessions and passing time; after each step the manager's answer is
compared with the model's, and at times everything there is. Time passes by making rows older, on the model's clock in
whole minutes; what the machine itself takes is far below a minute.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from mcp_sessions import TRUSTED, Owner, Session, SessionExistsError, SessionManager, Trusted
from mcp_sessions.digests import digest_of
from tests.support.managers import connections_are_back
from tests.support.rows import Rows

T = TypeVar("T")

IDLE, ABSOLUTE, TOUCH = 30, 100, 5
SLACK = 0.5
"""How far the machine's own time may carry the database's clock from the model's, in minutes."""

OWNERS = [Owner(), Owner("acme"), Owner("acme", "cli-1"), Owner("other", "cli-1"), Owner(None, "cli-1", "iss", "ann")]
IDS = [f"session-{number}" for number in range(6)]
"""Few, so that histories come back to the same ones."""


@dataclass
class Modelled:
    """A session as it should be: times in minutes of the model's clock."""

    owner: Owner
    created: float
    recorded: float

    def is_live(self, now: float) -> bool:
        """Whether neither timeout is over."""
        return now < min(self.recorded + IDLE + TOUCH, self.created + ABSOLUTE)

    def use(self, now: float) -> None:
        """Record activity, where that is due."""
        if now - self.recorded >= TOUCH:
            self.recorded = now


class Lives(RuleBasedStateMachine):
    """Histories of sessions on one database."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.Runner]
    workers: ClassVar[list[SessionManager]]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rows_expected: dict[str, Modelled] = {}
        self.rows = Rows(self.url)
        self.run(self.workers[0].clear_all_sessions())

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call on the event loop of the test."""
        return self.loop.run(call)

    def live(self) -> dict[str, Modelled]:
        """The sessions that are live by the model."""
        return {name: each for name, each in self.rows_expected.items() if each.is_live(self.now)}

    @rule(session_id=st.sampled_from(IDS), owner=st.sampled_from(OWNERS), worker=st.integers(0, 1))
    def create(self, session_id: str, owner: Owner, worker: int) -> None:
        """A creation succeeds where no row has the id, expired or not."""
        try:
            self.run(self.workers[worker].create_session(session_id, **asdict(owner)))
        except SessionExistsError:
            assert session_id in self.rows_expected
        else:
            assert session_id not in self.rows_expected
            self.rows_expected[session_id] = Modelled(owner, self.now, self.now)

    @rule(session_id=st.sampled_from(IDS), owner=st.sampled_from(OWNERS), worker=st.integers(0, 1))
    def resume(self, session_id: str, owner: Owner, worker: int) -> None:
        """A resume succeeds for the owner of a live session, and is activity."""
        found = self.run(self.workers[worker].resume_session(session_id, owner))
        expected = self.live().get(session_id)
        if expected is None or expected.owner != owner:
            assert found is None
        else:
            expected.use(self.now)
            assert found is not None
            assert (found.owner, found.digest) == (owner, digest_of(session_id))

    @rule(session_id=st.sampled_from(IDS), worker=st.integers(0, 1))
    def touch(self, session_id: str, worker: int) -> None:
        """A touch succeeds for a live session, and is activity."""
        expected = self.live().get(session_id)
        assert self.run(self.workers[worker].touch_session(session_id)) == (expected is not None)
        if expected is not None:
            expected.use(self.now)

    @rule(session_id=st.sampled_from(IDS), owner=st.sampled_from([TRUSTED, *OWNERS]), worker=st.integers(0, 1))
    def terminate(self, session_id: str, owner: Owner | Trusted, worker: int) -> None:
        """An end succeeds for a live session, of this owner if one is named."""
        expected = self.live().get(session_id)
        ends = expected is not None and owner in (TRUSTED, expected.owner)
        assert self.run(self.workers[worker].terminate_session(session_id, owner=owner)) == ends
        if ends:
            del self.rows_expected[session_id]

    @rule(owner=st.sampled_from(OWNERS[1:]), worker=st.integers(0, 1))
    def terminate_many(self, owner: Owner, worker: int) -> None:
        """A log-out ends the live sessions that all its filters fit."""
        filters = {name: part for name, part in asdict(owner).items() if part is not None}
        ended = [name for name, each in self.live().items() if filters.items() <= asdict(each.owner).items()]
        assert self.run(self.workers[worker].terminate_sessions(**filters)) == len(ended)
        for name in ended:
            del self.rows_expected[name]

    @rule(worker=st.integers(0, 1))
    def clean_up(self, worker: int) -> None:
        """A cleanup removes what has expired."""
        live = self.live()
        expired = len(self.rows_expected) - len(live)
        assert self.run(self.workers[worker].cleanup_stale_sessions()) == expired
        self.rows_expected = live

    @rule(minutes=st.integers(1, 40))
    def time_passes(self, minutes: int) -> None:
        """Every row becomes older."""
        self.run(self.rows.age_all(timedelta(minutes=minutes)))
        self.now += minutes

    @rule(owner=st.sampled_from(OWNERS), limit=st.integers(1, 4), worker=st.integers(0, 1))
    def everything_is_as_it_should_be(self, owner: Owner, limit: int, worker: int) -> None:
        """Lists, counts, metadata and rows hold what the model holds, and nothing else."""
        manager = self.workers[worker]
        filters = {"tenant_id": owner.tenant_id, "client_id": owner.client_id}
        wanted = {name: value for name, value in filters.items() if value is not None}
        live = {digest_of(name): each for name, each in self.live().items()}
        meant = {digest: each for digest, each in live.items() if wanted.items() <= asdict(each.owner).items()}
        listed: list[Session] = []
        cursor: str | None = None
        while True:
            page = self.run(manager.list_sessions(limit=limit, cursor=cursor, **wanted))
            listed += page.sessions
            if (cursor := page.next_cursor) is None:
                break
        assert [each.created_at for each in listed] == sorted((each.created_at for each in listed), reverse=True)
        assert {each.digest: each.owner for each in listed} == {digest: each.owner for digest, each in meant.items()}
        assert len(listed) == len(meant) == self.run(manager.get_active_session_count(**wanted))
        for session in listed:
            expected = live[session.digest]
            assert session == self.run(manager.find_sessions(session.digest.hex()))[0]
            since = (session.last_activity_at - session.created_at) / timedelta(minutes=1)
            assert abs(since - (expected.recorded - expected.created)) < SLACK
            until = (session.expires_at - session.created_at) / timedelta(minutes=1)
            assert abs(until - min(expected.recorded + IDLE + TOUCH - expected.created, ABSOLUTE)) < SLACK
        for name in IDS:
            assert self.run(manager.is_session_valid(name)) == (name in self.live())
        assert self.run(self.rows.count()) == len(self.rows_expected)


def check(url: str, *, examples: int, steps: int) -> None:
    """Check histories on the database at a URL."""
    minutes = {"idle_timeout": IDLE, "absolute_timeout": ABSOLUTE, "touch_interval": TOUCH}
    timeouts: dict[str, Any] = {name: timedelta(minutes=value) for name, value in minutes.items()}

    async def opened(stack: AsyncExitStack) -> list[SessionManager]:
        managers = [SessionManager.open(url, cleanup_batch_size=2, **timeouts) for _ in range(2)]
        return [await stack.enter_async_context(each) for each in managers]

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        workers = runner.run(opened(stack))
        here = {"url": url, "loop": runner, "workers": workers}
        bounds = settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        try:
            run_state_machine_as_test(type("Lives", (Lives,), here), settings=bounds)
            for worker in workers:
                runner.run(connections_are_back(worker))
        finally:
            runner.run(stack.aclose())


def test_histories(database_url: str) -> None:
    """Whatever happened before, every answer is the model's."""
    check(database_url, examples=15, steps=25)


@pytest.mark.long
def test_many_long_histories(database_url: str) -> None:
    """The same, over more and longer histories."""
    check(database_url, examples=600, steps=60)
