"""The HTTP part: ``tools/call`` and openings through this package's layer, beside the SDK's own sessions in memory.

The apps run in this process and are called without a network, so that nothing but the sessions differs and nothing
hides the difference: over a real connection every ratio is nearer to one. All answer as by default, in event streams.
"""

import asyncio
import gc
import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

from mcp.server.mcpserver import MCPServer
from mcp_persist import with_persistence

from benchmarks.contenders.base import migrate, require
from benchmarks.load import Call, Measured, ServerCpu, burst
from benchmarks.servers import running_postgres
from benchmarks.targets import Target
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import run_lifespan
from tests.support.asgi import browsing
from tests.support.mcp_client import RawClient

_CLIENTS = 64
_OK = 200
_PEERS = ("the SDK's in memory", "mcp-persist")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: bursts of so many seconds, so many for a median, and how many idle sessions."""

    seconds: float
    rounds: int
    idle: int


def server() -> MCPServer:
    """Return a server with one small tool."""
    made = MCPServer("bench", log_level="ERROR")

    @made.tool()
    def add(a: int, b: int) -> int:
        return a + b

    return made


def http(engine: str, scale: Scale, progress: Callable[[str], None]) -> list[Target]:
    """Return what was measured on one engine."""
    if engine == "postgres":
        with running_postgres() as postgres:
            for name in ("ours", "peer"):
                postgres.create_database(name)
            return asyncio.run(_measured(engine, postgres.url("ours"), postgres.url("peer"), scale, progress))
    with tempfile.TemporaryDirectory(prefix="http-bench-") as folder:
        ours, peer = f"sqlite:///{folder}/ours.db", str(Path(folder, "peer.db"))
        return asyncio.run(_measured(engine, ours, peer, scale, progress))


async def _measured(engine: str, ours: str, peer: str, scale: Scale, progress: Callable[[str], None]) -> list[Target]:
    await migrate(ours)
    apps = {
        "ours": DurableSessions(server().streamable_http_app(), database_url=ours),
        "the SDK's in memory": server().streamable_http_app(),
        "mcp-persist": with_persistence(server(), backend=engine, url=peer, durable_sessions=True),
    }
    bursts: dict[tuple[str, str], list[Measured]] = {}
    async with AsyncExitStack() as stack:
        clients: dict[str, list[RawClient]] = {}
        for name, app in apps.items():
            await stack.enter_async_context(run_lifespan(app))
            browser = await stack.enter_async_context(browsing(app))
            path = "/mcp/" if name == "mcp-persist" else "/mcp"  # it mounts, and would redirect
            clients[name] = [RawClient(browser, path=path) for _ in range(_CLIENTS)]
            for client in clients[name]:
                require((await client.initialize()).status == _OK)
        for turn in range(scale.rounds):
            for name in apps:
                progress(f"{engine}: HTTP, round {turn + 1}: {name}")
                for what, (call, callers) in _kinds(clients[name]).items():
                    measured = await burst(
                        call, sessions=_CLIENTS, callers=callers, seconds=scale.seconds, server=ServerCpu(None)
                    )
                    bursts.setdefault((what, name), []).append(measured)
        restored, called = await _restoring(ours, clients["ours"])
    figures = {place: Measured.median_of(all_of_it) for place, all_of_it in bursts.items()}
    progress(f"{engine}: the memory of {scale.idle:,} idle sessions")
    return [*_targets(engine, figures), Target(f"{engine}: restoring a session", "a tools/call", 3.0,
            restored / called, at_least=False), await _memory(engine, ours, scale.idle)]  # fmt: skip


def _targets(engine: str, figures: dict[tuple[str, str], Measured]) -> list[Target]:
    found: list[Target] = []
    for peer in _PEERS:
        one, many = (tuple(figures[what, name] for name in ("ours", peer)) for what in ("call", "calls"))
        opening = tuple(figures["open", name] for name in ("ours", peer))
        found += [
            Target(f"{engine}: tools/call, one client: p50", peer, 1.15, one[0].p50 / one[1].p50, at_least=False),
            Target(f"{engine}: tools/call, {_CLIENTS} clients: calls/s", peer, 0.85,
                   many[0].per_second / many[1].per_second, at_least=True),
            Target(f"{engine}: opening a session, one client: p50", peer, None,
                   opening[0].p50 / opening[1].p50, at_least=False),
        ]  # fmt: skip
    return found


def _kinds(clients: list[RawClient]) -> dict[str, tuple[Call, int]]:
    async def call(number: int) -> None:
        await _add(clients[number])

    async def opening(number: int) -> None:
        require((await clients[number].using(session_id=None).initialize()).status == _OK)

    return {"call": (call, 1), "calls": (call, _CLIENTS), "open": (opening, 1)}


async def _add(client: RawClient) -> float:
    began = perf_counter()
    require(await client.call("add", a=1, b=2))
    return perf_counter() - began


async def _restoring(url: str, clients: list[RawClient]) -> tuple[float, float]:
    """Return the median times of the first call and of the next one at a worker that opened none of the sessions."""
    other = DurableSessions(server().streamable_http_app(), database_url=url)
    async with run_lifespan(other), browsing(other) as browser:
        moved = [client.at(browser) for client in clients]
        await _add(moved.pop())
        return median([await _add(client) for client in moved]), median([await _add(client) for client in moved])


async def _memory(engine: str, url: str, idle: int) -> Target:
    """Measure what a worker still holds for sessions that it has let go."""
    app = DurableSessions(
        server().streamable_http_app(),
        database_url=url,
        let_go_after=timedelta(seconds=1),
        check_interval=timedelta(seconds=0.2),
    )
    async with run_lifespan(app), browsing(app) as browser:
        for _ in range(50):
            await RawClient(browser).initialize()
        tracemalloc.start()
        try:
            before = _traced()
            for _ in range(idle):
                await RawClient(browser).initialize()
            await browser.close()
            browser._under_way.clear()  # noqa: SLF001 - what the client remembers is not the worker's
            await asyncio.sleep(3)  # let go after one, looked at every fifth of one
            held = (_traced() - before) / idle
        finally:
            tracemalloc.stop()
    return Target(f"{engine}: memory for an idle session", "", 1000, held, at_least=False, unit=" bytes")


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
