"""Many concurrent calls, one run.

A database takes 256 rows in one statement about as quickly as a handful, so calls that are under way together
should share one. A `Batcher` stands between the callers, who submit one item each, and a function that takes
many. A call that finds it idle goes at once. While a run is in flight later calls gather, and the moment it
ends they go together as the next run. Load alone makes the batches: no timer waits for company, so a lone
caller pays no delay, and the busier the process is, the more calls share a run.

Runs belong to the batcher, never to a caller. They execute one at a time in a task of its own, the runner,
which begins with the first call, sleeps while there is nothing to do, and ends with the batcher. Hence a caller
that is cancelled takes nobody with it: if it was waiting, its item is dropped; if it was in flight, the run goes
on and its answer is thrown away. Everyone else gets an answer or an error of their own, and only after the run
has returned.

One exception is made for speed, where the function allows it: a call that finds the batcher idle is a run of its
own, in its caller's task, and is cancelled with it. It spares the lone caller two turns of the event loop. Whoever
else comes in the same turn gathers, even where that run never waited for anything.

Every caller has a deadline of its own, by which it is answered, whatever became of the runs before it and of its own:
it waits for nobody else's bad luck. What has not begun by then is never run; what is in flight goes on.

What the items are, in which order a run locks rows, and what two equal items in one batch mean is the
function's affair.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from itertools import chain, islice
from typing import Generic, TypeVar

from mcp_sessions.errors import DatabaseUnavailableError, ManagerClosedError, OverloadedError
from mcp_sessions.instruments import NOBODY, Instruments

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.02
"""How late at most a caller hears that its time is over, beside what the event loop is late anyway."""

_Call = tuple["asyncio.Future[Result | Exception]", tuple[Item, float]]
_Calls = dict["asyncio.Future[Result | Exception]", tuple[Item, float]]
"""Those who wait, by their answers: the item and the deadline of each, oldest first."""


class Batcher(Generic[Item, Result]):
    """Joins concurrent calls of `submit` into runs of `run`, at most one of them in flight.

    `run` takes 1 to `max_batch` items, oldest first, and returns as many entries in the same order: a result,
    or an exception that is raised to that caller alone (a new object for each entry). What `run` itself
    raises, each caller of that run gets. `max_queued` bounds the calls that wait, not counting those in
    flight. `name` tells batchers apart in errors and task lists. `divisible` is the error with which a run says
    that one of its items was refused and that it did nothing: it is run again in halves, so that only that item
    fails. `cancellable` says that a run may be cancelled halfway and bounds its own waits, so that a lone call need
    not wait for the runner. `instruments` are told of each run. A batcher belongs to one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        name: str,
        max_batch: int,
        max_queued: int,
        divisible: type[Exception] | tuple[()] = (),
        cancellable: bool = False,
        instruments: Instruments = NOBODY,
    ) -> None:
        if max_batch < 1 or max_queued < 1:
            raise ValueError(f"{name}: {max_batch=} and {max_queued=} must be at least 1")
        self._run = run
        self._name = name
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._divisible = divisible
        self._cancellable = cancellable
        self._instruments = instruments
        self._gathering_since = 0.0  # the moment from which the next batch's first call has waited; kept where told
        self._queue: _Calls[Result, Item] = {}
        self._in_flight: _Calls[Result, Item] = {}
        self._next_look = math.inf  # the moment of the timer
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False  # a run is in flight, or about to begin
        self._alone = False  # it is a lone call's own
        self._runner: asyncio.Task[None] | None = None
        self._wake_up: asyncio.Future[None] | None = None  # what a sleeping runner waits for
        self._idle = asyncio.Event()
        self._closed = False

    async def submit(self, item: Item, *, deadline: float = math.inf) -> Result:
        """Return the answer to `item` once the run that carried it has returned.

        Raises the entry's exception, or the run's; `DatabaseUnavailableError` at the deadline, a moment of the event
        loop's clock, if there was no answer; `OverloadedError` where `max_queued` calls wait already;
        `ManagerClosedError` after `close`, or where the run was torn down, which leaves its effect unknown.
        """
        if self._closed:
            raise ManagerClosedError(f"{self._name} is closed")
        if not self._busy and self._cancellable:
            return await self._run_alone(item)
        if len(self._queue) >= self._max_queued:
            raise OverloadedError(
                f"{self._name} is overloaded: {self._max_queued} calls wait already, the most allowed"
            )
        answer: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        if self._instruments.is_on and not self._queue:
            self._gathering_since = asyncio.get_running_loop().time()
        self._queue[answer] = item, deadline
        if deadline < self._next_look:
            self._look_at(deadline)
        if not self._busy:
            self._begin()
        try:
            outcome = await answer
        except asyncio.CancelledError:
            self._queue.pop(answer, None)
            raise
        return _answer_or_raise(outcome)

    async def close(self) -> None:
        """Refuse new calls, and return once every accepted one has been answered. May be called again."""
        self._closed = True
        if not self._busy:
            self._ended()
        while self._busy or self._runner is not None:
            self._idle.clear()
            await self._idle.wait()
        self._look_at(math.inf)

    async def _run_alone(self, item: Item) -> Result:
        self._busy = self._alone = True
        if self._instruments.is_on:
            self._instruments.batch_begun(self._name, 1, 0.0)
        try:
            (outcome,) = await self._checked_run((item,))
        finally:
            asyncio.get_running_loop().call_soon(self._ended_alone)
        return _answer_or_raise(outcome)

    def _begin(self) -> None:
        self._busy = True
        if self._runner is None:
            empty = Context()  # lest all callers be served under the trace and the user of whoever came first
            self._runner = asyncio.create_task(self._serve_queue(), name=self._name, context=empty)
            self._runner.add_done_callback(self._torn_down, context=empty)
        elif self._wake_up is not None and not self._wake_up.done():  # else it is being torn down, and begins anew
            self._wake_up.set_result(None)

    def _ended(self) -> None:
        if self._queue or (self._closed and self._runner is not None):  # someone came meanwhile, or it is to end
            self._begin()
        else:
            self._busy = False
            self._idle.set()

    def _ended_alone(self) -> None:
        self._alone = False
        self._ended()

    def _torn_down(self, _: object) -> None:
        self._runner = None
        if not self._alone:
            self._ended()

    async def _serve_queue(self) -> None:
        while True:
            while self._queue:
                await self._run_batch()
            if self._closed:
                return
            self._wake_up = asyncio.get_running_loop().create_future()
            self._ended()
            await self._wake_up

    async def _run_batch(self) -> None:
        self._in_flight = self._take_batch()
        try:
            await self._run_part(list(self._in_flight.items()))
        except BaseException:
            torn_down = f"{self._name} was stopped with the call in flight: whether it took effect is unknown"
            for answer in self._in_flight:
                if not answer.done():
                    answer.set_result(ManagerClosedError(torn_down))
            raise
        finally:
            self._in_flight = {}

    def _take_batch(self) -> "_Calls[Result, Item]":
        oldest = list(islice(self._queue, self._max_batch))
        if self._instruments.is_on:
            now = asyncio.get_running_loop().time()
            self._instruments.batch_begun(self._name, len(oldest), now - self._gathering_since)
            self._gathering_since = now
        return {answer: self._queue.pop(answer) for answer in oldest}

    async def _run_part(self, calls: "Sequence[_Call[Result, Item]]") -> None:
        # A cancelled caller takes its item back when it next runs, which may be after us; others' time may be over.
        calls = [each for each in calls if not each[0].done()]
        if not calls:
            return
        try:
            outcomes = await self._checked_run([item for _, (item, _) in calls])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers
            if len(calls) > 1 and isinstance(error, self._divisible):
                outcomes = None
            else:
                outcomes = _one_for_each(error, len(calls))
        if outcomes is None:
            middle = len(calls) // 2
            await self._run_part(calls[:middle])
            await self._run_part(calls[middle:])
            return
        for (answer, _), outcome in zip(calls, outcomes, strict=True):
            if not answer.done():
                answer.set_result(outcome)

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next_look = moment
        if moment < math.inf:
            self._timer = asyncio.get_running_loop().call_at(moment, self._look, context=Context())

    def _look(self) -> None:
        """Answer those whose time is over."""
        now = asyncio.get_running_loop().time()
        self._answer_late(self._in_flight, now, "no answer in time: whether it took effect is unknown")
        self._answer_late(self._queue, now, "its time was over before the database came to it, and nothing was done")
        open_calls = chain(self._in_flight.items(), self._queue.items())
        earliest = min((deadline for answer, (_, deadline) in open_calls if not answer.done()), default=math.inf)
        self._look_at(max(earliest, now + _LOOK_SECONDS))

    def _answer_late(self, calls: "_Calls[Result, Item]", now: float, what: str) -> None:
        for answer in [answer for answer, (_, deadline) in calls.items() if deadline <= now]:
            if not answer.done():
                answer.set_result(DatabaseUnavailableError(f"{self._name}: {what}"))
            self._queue.pop(answer, None)

    async def _checked_run(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        outcomes = await self._run(items)
        if len(outcomes) != len(items):
            raise RuntimeError(f"{self._name}: a run returned {len(outcomes)} entries for {len(items)} items")
        return outcomes


def _answer_or_raise(outcome: Result | Exception) -> Result:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _one_for_each(error: Exception, count: int) -> list[Exception]:
    """Make an error for each caller: one object raised in many tasks would mix up their tracebacks."""
    return [error] if count == 1 else [_copy_of(error) for _ in range(count)]


def _copy_of(error: Exception) -> Exception:
    try:
        # Not copy.copy, which gives the finished message to an __init__ that may want what it is made of.
        twin = type(error).__new__(type(error), *error.args)
    except Exception:  # noqa: BLE001 - a class's own __new__ may ask for anything; better shared than lost
        return error
    vars(twin).update(vars(error))
    twin.__cause__ = error  # where the run's traceback stays readable
    return twin
