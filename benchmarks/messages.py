"""The part about messages: what crosses from worker to worker, how long it takes, and what it costs who sends none.

Two uvicorn workers of ours serve one database. A client answers what it is asked, and hears what is sent, at the same
worker or at the other one, in turns. An ordinary call is compared with one of an earlier version, from a checkout of
it that ``--before`` names, since all that passes messages must cost such a call nothing.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.clients import Operation, Visitors
from benchmarks.contest import Cell, Discipline, compete
from benchmarks.load import ServerCpu
from benchmarks.served import IN_MEMORY, OURS
from benchmarks.servers import HttpWorker, environment_of, running_postgres
from benchmarks.talkers import Exchange, Talker
from benchmarks.targets import Target
from tests.support.postgres import PostgresServer

SAME, OTHER, BEFORE = "at the same worker", "at another worker", "the version before"
_EXCHANGES = (Discipline(Exchange.ELICITATION, 1), Discipline(Exchange.NOTIFICATION, 1))
_CALLS = (Discipline(Operation.CALL, 1), Discipline(Operation.CALL, 64))
_MOST_TIMES = {"postgres": 3.0, "sqlite": 5.0}
_MOST_MILLISECONDS = {"postgres": 10.0, "sqlite": 30.0}
_MOST_STATEMENTS = 0.45
"""A second, of a worker that waits: one in five moves its lease on, on Postgres after the ping of its pool."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: idle sessions, how long they are watched, and streams held open."""

    idle: int
    seconds: float
    streams: int


def default_scale(*, quick: bool) -> Scale:
    """Return how much is measured."""
    return Scale(1000, 15.0, 100) if quick else Scale(10_000, 60.0, 1000)


class _Place:
    """Makes databases on one engine."""

    def __init__(self, postgres: PostgresServer | None, folder: str) -> None:
        self._postgres = postgres
        self._folder = folder

    @property
    def server(self) -> ServerCpu:
        """The processor time of the database's server, if it has one."""
        return ServerCpu(None if self._postgres is None else self._postgres.pid)

    def database(self, name: str, checkout: Path | None = None) -> str:
        """Make a database with the schema of this version, or of another checkout, and return its URL."""
        if self._postgres is None:
            url = f"sqlite:///{self._folder}/{name}.db"
        else:
            self._postgres.create_database(name)
            url = self._postgres.url(name)
        command = [sys.executable, "-m", "mcp_sessions", "db", "upgrade", "--database-url", url]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment_of(checkout)})
        return url


@contextmanager
def _place(engine: str) -> Iterator[_Place]:
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="messages-bench-"))
        yield _Place(running.enter_context(running_postgres()) if engine == "postgres" else None, folder)


def contest(engine: str, seconds: float, rounds: int, before: Path | None, progress: Progress) -> Iterator[Cell]:
    """Yield what came of each exchange at one worker and across two, and of calls beside those of ``before``."""
    progress(f"{engine}: starting the workers")
    competing = partial(compete, engine, rounds=rounds, seconds=seconds, progress=progress)
    with _place(engine) as place:
        with ExitStack() as running:
            yield from competing(_talkers(place, running), _EXCHANGES)
        if before is not None:
            with ExitStack() as running:
                yield from competing(_visitors(place, before, running), _CALLS)


def _talkers(place: _Place, running: ExitStack) -> list[Talker]:
    url = place.database("ours")
    one, other = _started([HttpWorker(OURS, url), HttpWorker(OURS, url)], running)
    runner = running.enter_context(asyncio.Runner())
    return [
        running.enter_context(closing(Talker(name, runner, at=one, other=there)))
        for name, there in ((SAME, one), (OTHER, other))
    ]


def _visitors(place: _Place, before: Path, running: ExitStack) -> list[Visitors]:
    workers = [
        HttpWorker(OURS, place.database("today")),
        HttpWorker(OURS, place.database("before", before), before),
    ]
    _started(workers, running)
    runner = running.enter_context(asyncio.Runner())
    return [
        running.enter_context(closing(Visitors(name, runner, [worker], "/mcp", place.server)))
        for name, worker in zip((OURS, BEFORE), workers, strict=True)
    ]


def _started(workers: Sequence[HttpWorker], running: ExitStack) -> Sequence[HttpWorker]:
    for worker in workers:
        running.enter_context(closing(worker))
    with ThreadPoolExecutor() as starting:
        list(starting.map(HttpWorker.start, workers))
    return workers


def of_messages(cells: Sequence[Cell]) -> Iterator[Target]:
    """Yield the targets that this run can tell of."""
    measured = {
        (cell.engine, cell.discipline.operation, cell.discipline.callers, cell.contender): cell.measured
        for cell in cells
    }
    for engine in dict.fromkeys(cell.engine for cell in cells):
        same, other = (measured[engine, Exchange.ELICITATION, 1, name].p50 for name in (SAME, OTHER))
        what = f"{engine}: {Exchange.ELICITATION}, answered {OTHER}: p50"
        yield Target(what, f"answered {SAME}", _MOST_TIMES[engine], other / same, at_least=False)
        same, other = (measured[engine, Exchange.NOTIFICATION, 1, name].p50 for name in (SAME, OTHER))
        what = f"{engine}: {Exchange.NOTIFICATION}, {OTHER}: p50"
        against, most = f"more than {SAME}", _MOST_MILLISECONDS[engine]
        yield Target(what, against, most, 1000 * (other - same), at_least=False, unit=" ms")
        if (engine, Operation.CALL, 1, BEFORE) in measured:
            ours, its = (measured[engine, Operation.CALL, 1, name].p50 for name in (OURS, BEFORE))
            yield Target(f"{engine}: {Operation.CALL}, one caller: p50", BEFORE, 1.05, ours / its, at_least=False)
            ours, its = (measured[engine, Operation.CALL, 64, name].per_second for name in (OURS, BEFORE))
            yield Target(f"{engine}: {Operation.CALL}, 64 callers: calls/s", BEFORE, 0.95, ours / its, at_least=True)


def idle_costs(engines: Sequence[str], scale: Scale, progress: Progress) -> Iterator[Target]:
    """Yield what a worker asks of its database while it only waits, and what it holds for an open stream."""
    its = _told("benchmarks.streams", "", scale.streams)
    yield Target(f"memory for each open GET stream, {IN_MEMORY}", "", None, its, at_least=False, unit=" bytes")
    for engine in engines:
        progress(f"{engine}: a worker that only waits, and one with {scale.streams:,} streams")
        with _place(engine) as place:
            sent = _told("benchmarks.quiet", place.database("quiet"), scale.idle, scale.seconds)
            held = _told("benchmarks.streams", place.database("streams"), scale.streams)
        what = f"{engine}: statements a second of a worker with {scale.idle:,} idle sessions"
        yield Target(what, "", _MOST_STATEMENTS, sent, at_least=False, unit="")
        what = f"{engine}: memory for each open GET stream"
        yield Target(what, IN_MEMORY, None, held / its, at_least=False)


def _told(module: str, *arguments: object) -> float:
    """Have a process of its own measure, where nothing else is held."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)
