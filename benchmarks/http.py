"""The HTTP part: ``tools/call`` and openings through this package's layer, beside the SDK's own sessions in memory.

The apps run in this process and are called without a network, so that nothing but the sessions differs and nothing
hides the difference: over a real connection every ratio is nearer to one. All answer as by default, in event streams.
Each opening burst has an app of its own, so that the sessions it leaves behind slow nothing else down: the SDK's stay.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from statistics import median

from benchmarks.clients import Apart, add, opened, server
from benchmarks.contenders.base import migrate
from benchmarks.load import Call, Measured, ServerCpu, burst
from benchmarks.servers import running_postgres
from benchmarks.targets import Target
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import run_lifespan
from mcp_sessions.asgi.types import App
from tests.support.mcp_client import RawClient

_CLIENTS = 64
_OURS, _PEER = "ours", "the SDK's in memory"
_MOST_IN_MEMORY = 500  # the SDK's own take some 40 kB each

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: bursts of so many seconds, so many for a median, and how many idle sessions."""

    seconds: float
    rounds: int
    idle: int


def http(engine: str, scale: Scale, progress: Progress) -> Iterator[Target]:
    """Yield what was measured on one engine."""
    with _database(engine) as url:
        asyncio.run(migrate(url))
        yield from asyncio.run(_Contest(engine, url, scale, progress).held())
        progress(f"{engine}: HTTP, the memory of idle sessions")
        what = f"{engine}: memory for an idle session"
        yield Target(what, "", 1000, _bytes_held(url, scale.idle), at_least=False, unit=" bytes")
        its = _bytes_held("", min(scale.idle, _MOST_IN_MEMORY))
        yield Target(f"{what}, {_PEER}", "", None, its, at_least=False, unit=" bytes")


@contextmanager
def _database(engine: str) -> Iterator[str]:
    with ExitStack() as running:
        if engine == "postgres":
            postgres = running.enter_context(running_postgres())
            postgres.create_database("http")
            yield postgres.url("http")
        else:
            folder = running.enter_context(tempfile.TemporaryDirectory(prefix="http-bench-"))
            yield f"sqlite:///{folder}/http.db"


class _Contest:
    """Lets our app and the SDK's take turns."""

    def __init__(self, engine: str, url: str, scale: Scale, progress: Progress) -> None:
        self._engine = engine
        self._url = url
        self._scale = scale
        self._progress = progress
        self._bursts: dict[tuple[str, str], list[Measured]] = {}
        self._restored: list[float] = []
        self._called: list[float] = []

    async def held(self) -> list[Target]:
        """Measure, and return what came of it."""
        async with AsyncExitStack() as stack:
            clients: dict[str, list[RawClient]] = {}
            for name in (_OURS, _PEER):
                app = self._app(name)
                await stack.enter_async_context(run_lifespan(app))
                clients[name] = [await opened(RawClient(Apart(app))) for _ in range(_CLIENTS)]
            for turn in range(self._scale.rounds):
                for name in (_OURS, _PEER):
                    self._progress(f"{self._engine}: HTTP, round {turn + 1}: {name}")
                    await self._calls(name, clients[name])
                    await self._openings(name)
                await self._restores(clients[_OURS])
        return self._targets()

    def _app(self, name: str) -> App:
        bare = server().streamable_http_app()
        return DurableSessions(bare, database_url=self._url) if name == _OURS else bare

    async def _calls(self, name: str, clients: list[RawClient]) -> None:
        async def call(number: int) -> None:
            await add(clients[number])

        await self._burst("call", name, call, 1)
        await self._burst("calls", name, call, _CLIENTS)

    async def _openings(self, name: str) -> None:
        app = self._app(name)

        async def opening(_: int) -> None:
            await opened(RawClient(Apart(app)))

        async with run_lifespan(app):
            await self._burst("open", name, opening, 1)

    async def _burst(self, what: str, name: str, call: Call, callers: int) -> None:
        measured = await burst(
            call, sessions=_CLIENTS, callers=callers, seconds=self._scale.seconds, server=ServerCpu(None)
        )
        self._bursts.setdefault((what, name), []).append(measured)

    async def _restores(self, clients: list[RawClient]) -> None:
        """Call twice on each session at a worker that opened none of them: the first call restores it."""
        app = self._app(_OURS)
        async with run_lifespan(app):
            await add(await opened(RawClient(Apart(app))))
            moved = [client.at(Apart(app)) for client in clients]
            self._restored += [await add(client) for client in moved]
            self._called += [await add(client) for client in moved]

    def _targets(self) -> list[Target]:
        figures = {place: Measured.median_of(bursts) for place, bursts in self._bursts.items()}
        (one, its_one), (many, its_many), (opening, its_opening) = (
            (figures[what, _OURS], figures[what, _PEER]) for what in ("call", "calls", "open")
        )
        return [
            Target(f"{self._engine}: tools/call, one client: p50", _PEER, 1.15, one.p50 / its_one.p50, at_least=False),
            Target(f"{self._engine}: tools/call, one client: CPU of the worker", _PEER, None,
                   one.client_cpu / its_one.client_cpu, at_least=False),
            Target(f"{self._engine}: tools/call, {_CLIENTS} clients: calls/s", _PEER, 0.85,
                   many.per_second / its_many.per_second, at_least=True),
            Target(f"{self._engine}: opening a session, one client: p50", _PEER, None,
                   opening.p50 / its_opening.p50, at_least=False),
            Target(f"{self._engine}: restoring a session", "a tools/call", 3.0,
                   median(self._restored) / median(self._called), at_least=False),
        ]  # fmt: skip


@cache  # the SDK's own know no engine
def _bytes_held(url: str, idle: int) -> float:
    """Measure in a process of its own, where nothing else is held."""
    command = [sys.executable, "-m", "benchmarks.idle", url, str(idle)]
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)
