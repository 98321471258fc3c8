"""Joining concurrent calls: who shares a run, who gets which answer, and what goes wrong for whom."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar

import pytest

from mcp_sessions.batching.batcher import Batcher
from mcp_sessions.errors import DatabaseUnavailableError, ManagerClosedError, OverloadedError

Run = Callable[[Sequence[int]], Awaitable[Sequence[int | Exception]]]


def batcher(run: Run, *, max_batch: int = 100, max_queued: int = 100, cancellable: bool = False) -> Batcher[int, int]:
    """Make a batcher with room enough."""
    return Batcher(run, name="doubling", max_batch=max_batch, max_queued=max_queued, cancellable=cancellable)


async def one_turn() -> None:
    """Let all that is ready to run in the loop run once."""
    await asyncio.sleep(0)


def collect_complaints() -> list[str]:
    """Collect what the running loop complains of, such as exceptions that nobody retrieved."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    return complaints


class Doubling:
    """A run that doubles its items; each waits for `allow` and can be made to end otherwise by `endings`."""

    def __init__(self) -> None:
        self.started: list[list[int]] = []
        self.finished: list[list[int]] = []
        self.endings: dict[int, BaseException] = {}
        self._allowed = asyncio.Semaphore(0)
        self._changed = asyncio.Condition()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | Exception]:
        assert self.started == self.finished, "two runs in flight"
        self.started.append(list(items))
        async with self._changed:
            self._changed.notify_all()
        await self._allowed.acquire()
        self.finished.append(list(items))
        if (ending := self.endings.get(len(self.finished))) is not None:
            raise ending
        return [item * 2 for item in items]

    def allow(self, runs: int = 1000) -> None:
        for _ in range(runs):
            self._allowed.release()

    async def has_started(self, runs: int) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.started) >= runs)


async def in_flight_and_waiting(
    joined: Batcher[int, int], run: Doubling, *waiting: int
) -> tuple["asyncio.Task[int]", list["asyncio.Task[int]"]]:
    """Have item 1 in flight and `waiting` behind it."""
    first = asyncio.create_task(joined.submit(1))
    await run.has_started(1)
    rest = [asyncio.create_task(joined.submit(item)) for item in waiting]
    await one_turn()
    return first, rest


async def outcomes_of(*tasks: "asyncio.Task[int]") -> list[int | BaseException]:
    """Return what each task came to."""
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def submit_all(joined: Batcher[int, int], *items: int) -> list[int | BaseException]:
    """Submit the items together and return what each came to."""
    return await outcomes_of(*(asyncio.create_task(joined.submit(item)) for item in items))


# Who shares a run


async def test_a_call_on_an_idle_batcher_goes_at_once() -> None:
    """With nothing in flight, a call's run has started after one turn of the loop."""
    run = Doubling()
    joined = batcher(run)
    call = asyncio.create_task(joined.submit(1))
    await one_turn()
    await one_turn()
    assert run.started == [[1]]
    run.allow()
    assert await call == 2


async def test_calls_gather_while_a_run_is_in_flight() -> None:
    """Calls made during a run go together in the next one, oldest first, and each gets its own answer."""
    run = Doubling()
    first, rest = await in_flight_and_waiting(batcher(run), run, 2, 3, 4)
    run.allow()
    assert await outcomes_of(first, *rest) == [2, 4, 6, 8]
    assert run.finished == [[1], [2, 3, 4]]


async def test_calls_of_one_turn_share_a_run() -> None:
    """Calls made together on an idle batcher go in one run."""
    run = Doubling()
    run.allow()
    assert await submit_all(batcher(run), *range(50)) == list(range(0, 100, 2))
    assert run.finished == [list(range(50))]


async def test_a_run_takes_no_more_than_max_batch() -> None:
    """What exceeds max_batch stays in order for the runs after."""
    run = Doubling()
    first, rest = await in_flight_and_waiting(batcher(run, max_batch=2), run, 2, 3, 4)
    run.allow()
    await outcomes_of(first, *rest)
    assert run.finished == [[1], [2, 3], [4]]


async def test_a_call_returns_only_after_its_run() -> None:
    """No caller is answered while its run is in flight."""
    run = Doubling()
    first, (second,) = await in_flight_and_waiting(batcher(run), run, 2)
    run.allow(1)
    await run.has_started(2)
    await one_turn()
    assert (first.done(), second.done()) == (True, False)
    run.allow(1)
    assert await outcomes_of(second) == [4]


async def test_a_run_carries_no_callers_context() -> None:
    """A run sees no context variable of the caller that happened to come first."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        seen.append(user.get())
        return items

    user.set("alice")
    assert await submit_all(batcher(run), 1) == [1]
    assert seen == ["nobody"]


async def test_a_caller_that_calls_again_at_once_is_served_by_the_same_task() -> None:
    """Calls in close succession do not cost a new task each."""
    runners: list[asyncio.Task[object] | None] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        runners.append(asyncio.current_task())
        return items

    joined = batcher(run)
    for item in range(3):
        await joined.submit(item)
    assert runners == runners[:1] * 3


@pytest.mark.parametrize(("max_batch", "max_queued"), [(0, 1), (1, 0)])
def test_a_bound_below_one_is_refused(max_batch: int, max_queued: int) -> None:
    """A batcher that could never run anything cannot be made."""
    with pytest.raises(ValueError, match="must be at least 1"):
        batcher(lambda _: asyncio.sleep(0, []), max_batch=max_batch, max_queued=max_queued)


# Errors


@pytest.mark.parametrize("error", [KeyError("odd"), StopIteration()], ids=repr)
async def test_an_entrys_error_is_its_callers_alone(error: Exception) -> None:
    """An exception among the entries is raised to its own caller, and the others get their answers."""

    async def run(items: Sequence[int]) -> Sequence[int | Exception]:
        return [error if item == 2 else item for item in items]

    one, two, three = await submit_all(batcher(run), 1, 2, 3)
    assert (one, three) == (1, 3)
    assert isinstance(two, Exception)
    assert error in (two, two.__cause__)  # a coroutine cannot raise StopIteration: Python wraps it


class OutageError(Exception):
    """An error as packages write them: its message is made in __init__."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is down")
        self.host = host


async def test_a_failed_run_fails_each_of_its_callers_with_an_error_of_its_own() -> None:
    """What a run raises reaches all its callers as separate, equal errors caused by it, and nobody else."""
    run = Doubling()
    outage = OutageError("db")
    run.endings[2] = outage
    joined = batcher(run, max_batch=2)
    first, rest = await in_flight_and_waiting(joined, run, 2, 3, 4)
    run.allow()
    one, two, three, four = await outcomes_of(first, *rest)
    assert (one, four) == (2, 8)
    assert isinstance(two, OutageError)
    assert isinstance(three, OutageError)
    assert len({id(outage), id(two), id(three)}) == 3
    assert (str(two), two.host, two.__cause__) == ("db is down", "db", outage)
    assert (str(three), three.host, three.__cause__) == ("db is down", "db", outage)


async def test_a_lone_caller_gets_the_runs_error_itself() -> None:
    """With nobody to share it, the error that a run raised is the one that its caller sees."""
    run = Doubling()
    run.endings[1] = OutageError("db")
    run.allow()
    (outcome,) = await submit_all(batcher(run), 1)
    assert outcome is run.endings[1]


class UncopyableError(Exception):
    """Its __new__ wants more than its args tell."""

    def __new__(cls, _host: str, _port: int) -> "UncopyableError":
        return super().__new__(cls)

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port} refused")


async def test_an_error_that_cannot_be_copied_still_reaches_everybody() -> None:
    """Callers share a run's error where its class allows no second one."""
    run = Doubling()
    error = run.endings[1] = UncopyableError("db", 5432)
    run.allow()
    one, two = await submit_all(batcher(run), 1, 2)
    assert one is error
    assert two is error


@pytest.mark.parametrize("entries", [[], [1], [1, 2, 3]], ids=len)
async def test_a_wrong_number_of_entries_is_told_to_every_caller(entries: list[int]) -> None:
    """A run that returns too few or too many entries fails all its callers, with both numbers."""

    async def run(_: Sequence[int]) -> Sequence[int]:
        return entries

    outcomes = await submit_all(batcher(run), 1, 2)
    expected = f"doubling: a run returned {len(entries)} entries for 2 items"
    assert [(type(error), str(error)) for error in outcomes] == [(RuntimeError, expected)] * 2


async def test_a_run_torn_down_fails_its_own_callers_only() -> None:
    """A run that ends as cancelled fails its callers without cancelling them; those who wait are served."""
    run = Doubling()
    run.endings[1] = asyncio.CancelledError()
    joined = batcher(run)
    first, (second,) = await in_flight_and_waiting(joined, run, 2)
    run.allow()
    one, two = await outcomes_of(first, second)
    assert two == 4
    assert isinstance(one, ManagerClosedError)
    assert "whether it took effect is unknown" in str(one)
    assert await submit_all(joined, 3) == [6]


async def test_a_runner_torn_down_before_it_began_loses_nobody() -> None:
    """A call whose runner is cancelled before its first step is served all the same, and so is a close."""
    run = Doubling()
    run.allow()
    joined = batcher(run)
    call = asyncio.create_task(joined.submit(1))
    await one_turn()
    (runner,) = (task for task in asyncio.all_tasks() if task.get_name() == "doubling")
    runner.cancel()
    assert await outcomes_of(call) == [2]
    assert runner.cancelled()
    async with asyncio.timeout(5):
        await joined.close()


async def test_a_runner_torn_down_as_it_sleeps_loses_nobody() -> None:
    """A call that comes as the sleeping runner is cancelled is served by another one."""
    run = Doubling()
    run.allow()
    joined = batcher(run)
    assert await submit_all(joined, 1) == [2]
    (runner,) = (task for task in asyncio.all_tasks() if task.get_name() == "doubling")
    runner.cancel()
    async with asyncio.timeout(5):
        assert await submit_all(joined, 2, 3) == [4, 6]
        await joined.close()
    assert runner.cancelled()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "doubling"]


async def test_a_runner_torn_down_beside_a_lone_call_leaves_it_alone() -> None:
    """While a lone call is in flight the sleeping runner is cancelled: others still wait, and so does a close."""
    run = Doubling()
    joined = batcher(run, cancellable=True)
    first, (second,) = await in_flight_and_waiting(joined, run, 2)
    run.allow(2)
    await outcomes_of(first, second)  # the second one had a runner, which sleeps now
    lone = asyncio.create_task(joined.submit(3))
    await run.has_started(3)
    (runner,) = (task for task in asyncio.all_tasks() if task.get_name() == "doubling")
    runner.cancel()
    await asyncio.wait([runner])
    later = asyncio.create_task(joined.submit(4))
    closing = asyncio.create_task(joined.close())
    await one_turn()
    await one_turn()
    assert run.started == [[1], [2], [3]]
    assert not closing.done()
    run.allow()
    assert await outcomes_of(lone, later) == [6, 8]
    await closing


# Cancelled callers


async def test_a_cancelled_waiting_call_is_dropped() -> None:
    """An item whose caller is cancelled while it waits is never run, and its neighbours are."""
    run = Doubling()
    first, rest = await in_flight_and_waiting(batcher(run), run, 2, 3, 4)
    rest[1].cancel()
    await one_turn()
    run.allow()
    await outcomes_of(first, *rest)
    assert run.finished == [[1], [2, 4]]
    assert [call.cancelled() for call in rest] == [False, True, False]


@pytest.mark.parametrize("others", [[], [3]], ids=["alone", "in company"])
async def test_a_call_cancelled_as_its_run_begins_is_dropped(others: list[int]) -> None:
    """A caller cancelled in the very turn in which the next batch is taken is not in that batch."""
    joined: Batcher[int, int]
    waiting: list[asyncio.Task[int]] = []
    runs: list[list[int]] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        runs.append(list(items))
        if items == [1]:
            waiting.extend(asyncio.create_task(joined.submit(item)) for item in [2, *others])
            await one_turn()
            waiting[0].cancel()
        return items

    joined = batcher(run)
    assert await submit_all(joined, 1) == [1]
    assert (await outcomes_of(*waiting))[1:] == others
    assert waiting[0].cancelled()
    assert runs == [[1], *([others] if others else [])]


async def test_a_run_survives_the_caller_that_began_it() -> None:
    """Cancelling a caller in flight neither stops the run nor disturbs the callers that share it."""
    run = Doubling()
    joined = batcher(run)
    calls = [asyncio.create_task(joined.submit(item)) for item in (1, 2)]
    await run.has_started(1)
    calls[0].cancel()
    await one_turn()
    assert calls[0].cancelled()
    run.allow()
    assert await outcomes_of(calls[1]) == [4]
    assert run.finished == [[1, 2]]


async def test_an_error_for_a_cancelled_caller_vanishes_quietly() -> None:
    """No complaint about an unretrieved exception comes of a run that fails after its callers have left."""
    complaints = collect_complaints()
    run = Doubling()
    run.endings[1] = OutageError("db")
    joined = batcher(run)
    calls = [asyncio.create_task(joined.submit(item)) for item in (1, 2)]
    await run.has_started(1)
    for call in calls:
        call.cancel()
    await one_turn()
    run.allow()
    await joined.close()
    del calls, call
    gc.collect()
    assert run.finished == [[1, 2]]
    assert complaints == []


# The bound


async def test_a_full_queue_refuses_and_names_its_bound() -> None:
    """The call after max_queued waiting ones fails at once, and those keep their places."""
    run = Doubling()
    joined = batcher(run, max_queued=2)
    first, rest = await in_flight_and_waiting(joined, run, 2, 3)
    (refusal,) = await submit_all(joined, 4)
    assert isinstance(refusal, OverloadedError)
    assert str(refusal) == "doubling is overloaded: 2 calls wait already, the most allowed"
    run.allow()
    assert await outcomes_of(first, *rest) == [2, 4, 6]
    assert await submit_all(joined, 5) == [10]


async def test_a_cancelled_call_gives_its_place_back() -> None:
    """A waiting caller that is cancelled makes room in a full queue."""
    run = Doubling()
    joined = batcher(run, max_queued=1)
    first, (second,) = await in_flight_and_waiting(joined, run, 2)
    second.cancel()
    await one_turn()
    third = asyncio.create_task(joined.submit(3))
    await one_turn()
    run.allow()
    assert await outcomes_of(first, third) == [2, 6]


async def test_a_refused_item_fails_alone() -> None:
    """Where a run says that an item was refused, the others are answered, in their order, and only it fails."""
    carried: list[int] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        if refused := {3, 4, 9}.intersection(items):
            raise LookupError(refused)
        carried.extend(items)
        return [item * 2 for item in items]

    joined = Batcher(run, name="doubling", max_batch=100, max_queued=100, divisible=LookupError)
    outcomes = await submit_all(joined, *range(12))
    assert [item for item, outcome in enumerate(outcomes) if isinstance(outcome, LookupError)] == [3, 4, 9]
    assert [outcomes[item] for item in carried] == [item * 2 for item in carried]
    assert carried == [0, 1, 2, 5, 6, 7, 8, 10, 11]


async def test_what_was_done_before_another_fault_is_answered() -> None:
    """Where a run in halves meets another fault later on, those whose half was done before keep their answers."""

    async def run(items: Sequence[int]) -> Sequence[int]:
        if len(items) == 4:
            raise LookupError
        if 3 in items:
            raise OSError
        return items

    joined = Batcher(run, name="halves", max_batch=100, max_queued=100, divisible=LookupError)
    first, second, *others = await submit_all(joined, 0, 1, 2, 3)
    assert (first, second) == (0, 1)
    assert [type(other) for other in others] == [OSError, OSError]


# Deadlines


def in_a_moment() -> float:
    """A deadline that comes while a test waits for it."""
    return asyncio.get_running_loop().time() + 0.05


async def test_a_call_in_flight_is_answered_at_its_deadline_and_its_run_goes_on() -> None:
    """A caller whose run takes too long is told so; those who share the run, and it itself, go on."""
    run = Doubling()
    joined = batcher(run)
    calls = [asyncio.create_task(joined.submit(1, deadline=in_a_moment())), asyncio.create_task(joined.submit(2))]
    late, *_ = await outcomes_of(calls[0])
    assert isinstance(late, DatabaseUnavailableError)
    assert str(late) == "doubling: no answer in time: whether it took effect is unknown"
    assert (run.started, run.finished, calls[1].done()) == ([[1, 2]], [], False)
    run.allow()
    assert await outcomes_of(calls[1]) == [4]


async def test_a_waiting_call_is_answered_at_its_deadline_and_never_run() -> None:
    """A caller whose turn does not come in time is told that nothing was done, and gives its place back."""
    run = Doubling()
    joined = batcher(run, max_queued=2)
    first, (second,) = await in_flight_and_waiting(joined, run, 2)
    (late,) = await outcomes_of(asyncio.create_task(joined.submit(3, deadline=in_a_moment())))
    assert isinstance(late, DatabaseUnavailableError)
    assert str(late).endswith("nothing was done")
    fourth = asyncio.create_task(joined.submit(4))
    await one_turn()
    run.allow()
    assert await outcomes_of(first, second, fourth) == [2, 4, 8]
    assert run.finished == [[1], [2, 4]]


async def test_each_call_has_a_deadline_of_its_own() -> None:
    """Deadlines come in any order; each caller hears at its own, however many stand before it."""
    joined = batcher(Doubling(), max_batch=1)
    loop = asyncio.get_running_loop()
    began, delays = loop.time(), (0.3, 0.05, 0.15, 0.1)
    answered: dict[float, float] = {}

    async def call(delay: float) -> None:
        with pytest.raises(DatabaseUnavailableError):
            await joined.submit(1, deadline=began + delay)
        answered[delay] = loop.time() - began

    await asyncio.gather(*map(call, delays))
    assert list(answered) == sorted(delays)
    assert all(seconds >= delay for delay, seconds in answered.items())


async def test_a_halved_run_leaves_out_those_whose_time_is_over() -> None:
    """What a run in halves comes to only after its caller was answered is not run any more."""
    runs: list[list[int]] = []

    async def run(items: Sequence[int]) -> Sequence[int]:
        runs.append(list(items))
        if items != [1]:
            await asyncio.sleep(0.1)
            raise LookupError
        return items

    joined = Batcher(run, name="halves", max_batch=100, max_queued=100, divisible=LookupError)
    calls = [joined.submit(1), joined.submit(2, deadline=in_a_moment()), joined.submit(3, deadline=in_a_moment())]
    one, *late = await outcomes_of(*map(asyncio.ensure_future, calls))
    assert one == 1
    assert [type(each) for each in late] == [DatabaseUnavailableError] * 2
    await joined.close()
    assert runs == [[1, 2, 3], [1]]


async def test_a_closed_batcher_leaves_no_timer() -> None:
    """Once all are answered and the batcher is closed, nothing of it waits in the event loop."""
    run = Doubling()
    run.allow()
    joined = batcher(run)
    assert await joined.submit(1, deadline=asyncio.get_running_loop().time() + 3600) == 2
    await joined.close()
    assert joined._timer is None


# A lone call whose run may be cancelled


async def test_a_lone_call_is_a_run_of_its_own() -> None:
    """On an idle batcher, a call whose run may be cancelled runs in its caller's task; those behind it share a run."""
    runners: list[asyncio.Task[object] | None] = []
    doubling = Doubling()

    async def run(items: Sequence[int]) -> Sequence[int | Exception]:
        runners.append(asyncio.current_task())
        return await doubling(items)

    first, rest = await in_flight_and_waiting(batcher(run, cancellable=True), doubling, 2, 3)
    doubling.allow()
    assert await outcomes_of(first, *rest) == [2, 4, 6]
    assert doubling.finished == [[1], [2, 3]]
    assert runners[0] is first
    assert runners[1] not in (first, *rest)


@pytest.mark.parametrize("entry", [True, False], ids=["its entry", "the run"])
async def test_a_lone_call_gets_its_error_and_leaves_the_batcher_idle(entry: bool) -> None:
    """A lone call is told of its error, and the next one is served."""
    error = KeyError("bad")

    async def run(items: Sequence[int]) -> Sequence[int | Exception]:
        if items[0] != 1:
            return items
        if entry:
            return [error]
        raise error

    joined = batcher(run, cancellable=True)
    assert await submit_all(joined, 1) == [error]
    assert await submit_all(joined, 2) == [2]


async def test_calls_of_one_turn_gather_behind_a_run_that_waits_for_nothing() -> None:
    """Of calls made in the same turn of the loop, the first is served at once, and the others share the next run."""
    runs: list[list[int]] = []

    async def run(items: Sequence[int]) -> Sequence[int | Exception]:
        runs.append(list(items))
        return items

    joined = batcher(run, cancellable=True)
    assert await submit_all(joined, 1, 2, 3, 4) == [1, 2, 3, 4]
    assert await submit_all(joined, 5) == [5]
    assert runs == [[1], [2, 3, 4], [5]]


async def test_a_lone_call_is_cancelled_with_its_run() -> None:
    """A cancelled lone call ends its run, and those who wait behind it are served."""
    run = Doubling()
    first, rest = await in_flight_and_waiting(batcher(run, cancellable=True), run, 2, 3)
    run.finished.append([1])  # the run that is cut off
    first.cancel()
    run.allow()
    assert await outcomes_of(*rest) == [4, 6]
    assert first.cancelled()
    assert run.started == [[1], [2, 3]]


async def test_closing_waits_for_a_lone_call() -> None:
    """A close returns after the lone call in flight and those who wait behind it."""
    run = Doubling()
    joined = batcher(run, cancellable=True)
    first, (second,) = await in_flight_and_waiting(joined, run, 2)
    close = asyncio.create_task(joined.close())
    await one_turn()
    run.allow(1)
    await run.has_started(2)
    await one_turn()
    assert (first.done(), close.done()) == (True, False)
    run.allow()
    async with asyncio.timeout(5):
        await close
    assert second.done()


# The end


async def test_closing_answers_everybody_first() -> None:
    """Concurrent closes all return only after the run in flight and the whole queue, and refuse new calls."""
    run = Doubling()
    joined = batcher(run, max_batch=1)
    first, rest = await in_flight_and_waiting(joined, run, 2, 3)
    closes = [asyncio.create_task(joined.close()) for _ in range(2)]
    await one_turn()
    (refusal,) = await submit_all(joined, 4)
    assert isinstance(refusal, ManagerClosedError)
    assert str(refusal) == "doubling is closed"
    assert not any(close.done() for close in closes)
    run.allow()
    async with asyncio.timeout(5):
        await asyncio.gather(*closes)
    assert [call.done() for call in (first, *rest)] == [True] * 3
    assert await outcomes_of(first, *rest) == [2, 4, 6]
    await joined.close()


async def test_closing_waits_through_a_run_torn_down() -> None:
    """A close whose run in flight is torn down still answers those who wait behind it."""
    run = Doubling()
    run.endings[1] = asyncio.CancelledError()
    joined = batcher(run)
    first, (second,) = await in_flight_and_waiting(joined, run, 2)
    close = asyncio.create_task(joined.close())
    await one_turn()
    run.allow(1)
    await run.has_started(2)
    await one_turn()
    assert not close.done()
    run.allow()
    async with asyncio.timeout(5):
        await close
    assert second.done()
    assert isinstance((await outcomes_of(first, second))[0], ManagerClosedError)


async def test_an_impatient_close_cancels_nothing() -> None:
    """Giving up on a close leaves the run in flight alone, the batcher closed, and no runner that sleeps."""
    run = Doubling()
    joined = batcher(run)
    first, _ = await in_flight_and_waiting(joined, run)
    close = asyncio.create_task(joined.close())
    await one_turn()
    close.cancel()
    await one_turn()
    assert close.cancelled()
    (runner,) = (task for task in asyncio.all_tasks() if task.get_name() == "doubling")
    run.allow()
    assert await outcomes_of(first) == [2]
    assert isinstance((await submit_all(joined, 2))[0], ManagerClosedError)
    async with asyncio.timeout(5):
        await asyncio.wait([runner])  # it ends by itself


def test_a_loop_torn_down_leaves_nothing_behind() -> None:
    """A loop that ends with a run in flight and calls waiting ends quietly, with every task ended."""

    async def main() -> tuple[Doubling, list[str], set["asyncio.Task[object]"]]:
        run = Doubling()
        await in_flight_and_waiting(batcher(run, max_batch=1), run, 2, 3)
        return (
            run,
            collect_complaints(),
            {task for task in asyncio.all_tasks() if task != asyncio.current_task()},
        )

    run, complaints, tasks = asyncio.run(main())
    assert len(tasks) == 4
    assert all(task.cancelled() for task in tasks)
    gc.collect()
    assert run.started == [[1]]
    assert complaints == []
