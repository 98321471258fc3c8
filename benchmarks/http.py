"""The HTTP part: what a user has, uvicorn workers on loopback ports and clients on connections that are kept alive.

Each contender's worker is a process of its own (see ``served``); the clients are in this process, the same for all.
The processor time of a call is the worker's and its database server's, without the clients'. Ours, the SDK's own
sessions in memory and ``mcp-persist`` take turns, both engines together: the SDK's, which know no engine, are measured
once and stand in the tables of each.

A session is restored on a second worker of the same database, which has served before. Sessions are opened last,
since those that a worker keeps in memory slow down everything after them.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from rich.console import Console

from benchmarks.clients import Operation, Visitors
from benchmarks.contenders.base import migrate
from benchmarks.contest import Cell, Discipline, compete
from benchmarks.load import ServerCpu
from benchmarks.served import IN_MEMORY, MCP_PERSIST, MEASURED, OURS, PATHS, SETTINGS
from benchmarks.servers import HttpWorker, running_postgres
from benchmarks.targets import Target

_DISCIPLINES = (
    Discipline(Operation.CALL, 1),
    Discipline(Operation.CALL, 64),
    Discipline(Operation.RESTORE, 1),
    Discipline(Operation.OPEN, 1),
)
_MOST_IN_MEMORY = 500  # the SDK's own take some 40 kB each

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Entry:
    """Whoever takes part: its kind, the engine and URL of its database, and that one's server."""

    kind: str
    engine: str | None = None
    url: str = ""
    server: ServerCpu = ServerCpu(None)  # noqa: RUF009 - it holds nothing

    @property
    def name(self) -> str:
        """How it is called while it takes its turns."""
        return f"{self.kind}, {self.engine}" if self.engine else self.kind


def contest(
    engines: Sequence[str], seconds: float, rounds: int, console: Console, progress: Progress
) -> Iterator[Cell]:
    """Yield what everybody did, engine by engine."""
    for kind, settings in SETTINGS.items():
        console.print(f"[bold]{kind}[/bold] over HTTP: {settings}", highlight=False)
    console.print("[bold]Everybody[/bold] over HTTP: one uvicorn process with h11 on asyncio, answers in event streams")
    progress("HTTP: starting the workers")
    with ExitStack() as running:
        entries = [entry for engine in engines for entry in _on(engine, running)] + [_Entry(IN_MEMORY)]
        visitors = _started(entries, running)
        cells = [
            cell
            for discipline in _DISCIPLINES
            for cell in compete(
                "HTTP",
                [each for each in visitors if each.can(discipline.operation)],
                [discipline],
                rounds=rounds,
                seconds=seconds,
                progress=progress,
            )
        ]
    who = {entry.name: entry for entry in entries}
    for engine in engines:
        for cell in cells:
            if who[cell.contender].engine in {engine, None}:
                yield replace(cell, engine=engine, contender=who[cell.contender].kind)


def _on(engine: str, running: ExitStack) -> Iterator[_Entry]:
    """Yield who takes part on one engine, each with a database of its own."""
    server = ServerCpu(None)
    if engine == "postgres":
        postgres = running.enter_context(running_postgres())
        server = ServerCpu(postgres.pid)
        for name in ("ours", "measured", "persist"):
            postgres.create_database(name)
        place = postgres.url("")
    else:
        place = f"sqlite:///{running.enter_context(tempfile.TemporaryDirectory(prefix='http-bench-'))}/"
    for kind, name in ((OURS, "ours"), (MEASURED, "measured")):
        asyncio.run(migrate(f"{place}{name}"))
        yield _Entry(kind, engine, f"{place}{name}", server)
    yield _Entry(MCP_PERSIST, engine, f"{place}persist", server)


def _started(entries: Sequence[_Entry], running: ExitStack) -> list[Visitors]:
    """Start everybody's workers, and then the second ones, which restore what the first have opened."""
    workers = {
        entry.name: [
            running.enter_context(closing(HttpWorker(entry.kind, entry.url))) for _ in range(2 if entry.url else 1)
        ]
        for entry in entries
    }
    firsts, seconds = ([some[nth] for some in workers.values() if len(some) > nth] for nth in range(2))
    with ThreadPoolExecutor() as starting:
        list(starting.map(HttpWorker.start, firsts))
        list(starting.map(HttpWorker.start, seconds))  # not with the first: mcp-persist creates its tables as it starts
    runner = running.enter_context(asyncio.Runner())
    return [
        running.enter_context(
            closing(Visitors(entry.name, runner, workers[entry.name], PATHS.get(entry.kind, "/mcp"), entry.server))
        )
        for entry in entries
    ]


def memory(engines: Sequence[str], idle: int, progress: Progress) -> Iterator[Target]:
    """Yield what a worker holds for an idle session; of the SDK's own, fewer are looked at."""
    progress(f"HTTP: the memory of {idle:,} idle sessions")
    few = min(idle, _MOST_IN_MEMORY)
    with ExitStack() as running, ThreadPoolExecutor() as measuring:
        urls = [next(_on(engine, running)).url for engine in engines]
        *ours, its = measuring.map(_bytes_held, [*urls, ""], [*(idle for _ in urls), few])
    for engine, held in zip(engines, ours, strict=True):
        yield Target(
            f"{engine}: memory for each of {idle:,} idle sessions", "", 1000, held, at_least=False, unit=" bytes"
        )
    what = f"memory for each of {few:,} idle sessions, {IN_MEMORY}"
    yield Target(what, "", None, its, at_least=False, unit=" bytes")


def _bytes_held(url: str, idle: int) -> float:
    """Measure in a process of its own, where nothing else is held."""
    command = [sys.executable, "-m", "benchmarks.idle", url, str(idle)]
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)
