"""What time does to a store: touching for days, more and more sessions, and the cleanup of half of them.

Days are not waited for. All durations are divided by the same number instead: with an idle timeout of a second and a
touch every thirtieth of it, each session is touched as often as by a day of a call a minute under the default thirty
minutes. So is the vacuum: it comes once every idle timeout, while Postgres would look for something to do thirty times
in that time.
"""

import asyncio
import itertools
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection

from benchmarks.contenders import table
from benchmarks.contenders.base import Call, Operation, migrate, require
from benchmarks.contest import Discipline, compete, started
from benchmarks.load import Measured, during
from benchmarks.population import MOST_IN_USE, known_client
from benchmarks.servers import running_postgres
from benchmarks.targets import Target
from mcp_sessions import SessionManager
from mcp_sessions.cleanup.run import Cleanup
from mcp_sessions.db.engines import backend_of
from mcp_sessions.settings import Settings
from tests.support.postgres import PostgresServer

Progress = Callable[[str], None]
T = TypeVar("T")

_DAY_SECONDS = 48.0
"""A day of thirty-minute timeouts, when the timeout is a second."""
_TOUCHED, _TOUCHES_PER_TIMEOUT = 300, 30
_FOREGROUND = 4
_QUIET_SECONDS = 5
_STALE = {"postgres": "get_byte(session_digest, 0) < 128", "sqlite": "session_digest < x'80'"}
_TIMES = ("created_at", "last_activity_at", "expires_at", "cleanup_at")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: days of touching, the sizes compared, the sessions of which half are cleaned up."""

    days: float
    sizes: tuple[int, int]
    cleaned: int


class Place:
    """Where databases are made on one engine, empty or as a copy of another."""

    def __init__(self, engine: str, server: PostgresServer | None, folder: Path) -> None:
        self.engine = engine
        self.server = server
        self._folder = folder

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return self.server.url(name) if self.server is not None else f"sqlite:///{self._folder}/{name}.db"

    def create(self, name: str, *, like: str | None = None) -> str:
        """Make a database and return its URL."""
        if self.server is not None:
            self.server.create_database(name, template=like)
        elif like is not None:
            shutil.copy(self._folder / f"{like}.db", self._folder / f"{name}.db")
        return self.url(name)

    async def run(self, name: str, *statements: str) -> list[tuple[float, ...]]:
        """Run statements in one transaction and return the rows of the last one."""
        if self.server is not None:
            connection = await asyncpg.connect(self.url(name))
            try:
                async with connection.transaction():
                    for statement in statements[:-1]:
                        await connection.execute(statement)
                    return [tuple(row) for row in await connection.fetch(statements[-1])]
            finally:
                await connection.close()
        file = sqlite3.connect(self._folder / f"{name}.db", isolation_level=None)
        try:
            for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-8000", "temp_store=MEMORY"):
                file.execute(f"PRAGMA {pragma}")
            file.execute("BEGIN IMMEDIATE")
            rows = [file.execute(statement).fetchall() for statement in statements][-1]
            file.execute("COMMIT")
            return rows
        finally:
            file.close()

    async def settle(self, name: str) -> None:
        """Have what was written so far on the disk, lest it be written during what comes next."""
        if self.server is not None:
            await self.run(name, "CHECKPOINT", "SELECT 1")
        else:
            os.sync()


@contextmanager
def places(engine: str) -> Iterator[Place]:
    """Open a place for databases of one engine; nothing is left of it."""
    with ExitStack() as running:
        server = running.enter_context(running_postgres()) if engine == "postgres" else None
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="upkeep-bench-"))
        yield Place(engine, server, Path(folder))


def upkeep(engine: str, scale: Scale, seconds: float, rounds: int, progress: Progress) -> Iterator[Target]:
    """Yield what was measured on one engine."""
    with places(engine) as place:
        progress(f"{engine}: {scale.days:g} days of touching")
        yield from asyncio.run(_days_of_touching(place, scale.days))
        yield from _sizes(place, scale.sizes, seconds, rounds, progress)
        progress(f"{engine}: the cleanup of half of {scale.cleaned:,} sessions")
        yield from asyncio.run(_cleanup(place, scale.cleaned))


async def _days_of_touching(place: Place, days: float) -> list[Target]:
    url = place.create("days")
    await migrate(url)
    second = timedelta(seconds=1)
    async with SessionManager.open(
        url, idle_timeout=second, touch_interval=timedelta(0), scheduled_cleanup=False
    ) as manager:
        ids = [await manager.create_session(tenant_id="t", subject=f"user-{number}") for number in range(_TOUCHED)]
        vacuuming = asyncio.create_task(_vacuum(place))
        await _touch(manager, ids, _DAY_SECONDS * days / 4)
        before = await _pages(place)
        await _touch(manager, ids, _DAY_SECONDS * days * 3 / 4)
        after = await _pages(place)
        vacuuming.cancel()
        with suppress(asyncio.CancelledError):
            await vacuuming
    name = place.engine
    growth = Target(f"{name}: table and indexes after {days:g} days of touching", "a quarter of it", 1.5,
                    after / before, at_least=False)  # fmt: skip
    if place.server is None:
        return [growth]
    statistics = "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'sessions'"
    ((hot, updates),) = await place.run("days", "SELECT pg_stat_force_next_flush()", statistics)
    return [
        growth,
        Target(f"{name}: HOT updates under touching", "", 95, 100 * hot / updates, at_least=True, unit=" %"),
    ]


async def _touch(manager: SessionManager, ids: list[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) < deadline:
        require(all(await asyncio.gather(*map(manager.touch_session, ids))))
        await asyncio.sleep(max(0.0, began + 1 / _TOUCHES_PER_TIMEOUT - time.monotonic()))


async def _vacuum(place: Place) -> None:
    """Do what autovacuum does, until cancelled; SQLite has no need of it."""
    if place.server is None:
        return
    connection = await asyncpg.connect(place.url("days"))
    try:
        while True:
            await asyncio.sleep(1)
            await connection.execute("VACUUM sessions")
    finally:
        await connection.close()


async def _pages(place: Place) -> float:
    if place.server is not None:
        ((size,),) = await place.run("days", "SELECT pg_total_relation_size('sessions')")
        return size
    ((pages,),) = await place.run(
        "days", "SELECT page_count - freelist_count FROM pragma_page_count(), pragma_freelist_count()"
    )
    return pages


def _sizes(place: Place, sizes: tuple[int, int], seconds: float, rounds: int, progress: Progress) -> Iterator[Target]:
    """Compare the cost of a call in a small and in a large store, each in a process of its own.

    Once with as many sessions in use in both, so that nothing but the size of the store differs; and once with as many
    as there can be.
    """
    pid = place.server.pid if place.server is not None else None
    with ExitStack() as running:
        stores = []
        for size in sizes:
            progress(f"{place.engine}: filling a store with {size:,} sessions")
            entries = [("Ours", place.create(f"size{size}"), pid)]
            stores += running.enter_context(started(entries, size))
        for store, size in zip(stores, sizes, strict=True):
            store.name = f"{size:,}"
        disciplines = [
            Discipline(operation, 256, in_use)
            for in_use in (min(sizes), min(MOST_IN_USE, max(sizes)))
            for operation in (Operation.RESUME, Operation.RESUME_TOUCHING)
        ]
        cells = list(compete(place.engine, stores, disciplines, rounds=rounds, seconds=seconds, progress=progress))
    for small, large in zip(cells[::2], cells[1::2], strict=True):
        used = f"{large.discipline.in_use:,} of {large.contender} sessions in use"
        what = f"{place.engine}: {large.discipline.operation}, {used}: time a call"
        ratio = small.measured.per_second / large.measured.per_second
        yield Target(what, f"that of {small.contender}", 1.5, ratio, at_least=False)


async def _cleanup(place: Place, count: int) -> list[Target]:
    url = place.create("full")
    await migrate(url)
    await table.fill(url, count)
    await place.run("full", _AGE[place.engine])
    for name in ("bare", "alone", "busy"):
        place.create(name, like="full")
    await place.settle("bare")
    began = time.perf_counter()
    await place.run("bare", *_BARE[place.engine])
    bare = time.perf_counter() - began
    await place.settle("alone")
    began = time.perf_counter()
    async with _cleaning(place.url("alone")) as (cleanup, _):
        removed = await cleanup.run()
    alone = time.perf_counter() - began
    reading, touching, longest = await _foreground(place.url("busy"), count)
    what = f"{place.engine}: cleanup of {removed:,} stale among {count - removed:,} live"
    return [
        Target(f"{what}: speed", "one bare transaction", 0.7, bare / alone, at_least=True),
        Target(f"{what}: p99 of uses that only read", "its quiet value", 2.0, reading, at_least=False),
        Target(f"{what}: p99 of uses that touch", "its quiet value", 2.0, touching, at_least=False),
        Target(f"{what}: longest transaction", "", 250, longest * 1e3, at_least=False, unit=" ms"),
    ]


async def _foreground(url: str, count: int) -> tuple[float, float, float]:
    """Use live sessions, first in quiet and then during a cleanup.

    Return the ratios of the p99s, for uses that only read and for uses that all touch, and the cleanup's longest
    transaction.
    """
    live = [number for number in range(min(count, 20_000)) if known_client(number).digest[0] >= 128]  # noqa: PLR2004
    numbers = itertools.cycle(live)

    def user_of(manager: SessionManager) -> Call:
        async def use(number: int) -> None:
            one = known_client(number)
            require(await manager.resume_session(one.session_id, one.owner))

        return use

    async with (
        SessionManager.open(url, scheduled_cleanup=False, touch_interval=timedelta(minutes=10)) as seldom,
        SessionManager.open(url, scheduled_cleanup=False, touch_interval=timedelta(0)) as always,
        _cleaning(url) as (cleanup, transactions),
    ):
        users = [user_of(seldom), user_of(always)]
        for number in live:
            await users[1](number)  # from now on a use is not due for ten minutes

        async def used_during(task: "asyncio.Task[Any]") -> list[Measured]:
            return await asyncio.gather(*(during(task, use, numbers=numbers, callers=_FOREGROUND) for use in users))

        quiet = await used_during(asyncio.create_task(asyncio.sleep(_QUIET_SECONDS)))
        busy = await used_during(asyncio.create_task(cleanup.run()))
    reading, touching = (after.p99 / before.p99 for before, after in zip(quiet, busy, strict=True))
    return reading, touching, max(transactions)


@asynccontextmanager
async def _cleaning(url: str) -> AsyncIterator[tuple[Cleanup, list[float]]]:
    """A cleanup, and how long its transactions take, from their beginning to the end of their commit."""
    settings = Settings(database_url=url)
    database = backend_of(settings)
    transactions: list[float] = []
    write = database.write

    async def timed(
        unit: Callable[[Connection], T], *, repeatable: bool = False, lock_patience: timedelta | None = None
    ) -> T:
        began = 0.0

        def begun(connection: Connection) -> T:
            nonlocal began
            began = time.perf_counter()
            return unit(connection)

        result = await write(begun, repeatable=repeatable, lock_patience=lock_patience)
        transactions.append(time.perf_counter() - began)
        return result

    database.write = timed  # type: ignore[method-assign]  # whichever backend it is
    try:
        yield Cleanup(database, settings), transactions
    finally:
        await database.close()


def default_scale(*, quick: bool, full: bool) -> Scale:
    """Return how much is measured."""
    if quick:
        return Scale(0.2, (10_000, 50_000), 20_000)
    return Scale(2, (10_000, 10_000_000 if full else 1_000_000), 2_000_000)


_LIFE = "session_digest, tenant_id, client_id, issuer, subject"
_EVENT = f"occurred_at, kind, reason, actor, {_LIFE}, session_created_at, is_end, lifetime_seconds"
_AGE = {
    "postgres": f"UPDATE sessions SET {', '.join(f'{name} = {name} - make_interval(hours => 2)' for name in _TIMES)} "
    f"WHERE {_STALE['postgres']}",
    "sqlite": "UPDATE sessions SET "
    + ", ".join(f"{name} = strftime('%Y-%m-%d %H:%M:%f', {name}, '-2 hours')" for name in _TIMES)
    + f" WHERE {_STALE['sqlite']}",
}
_NOW = {"postgres": "now()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')"}
_LIFETIME = {
    "postgres": "extract(epoch FROM expires_at - created_at)",
    "sqlite": "(julianday(expires_at) - julianday(created_at)) * 86400",
}
_BARE = {
    engine: (
        f"""
        INSERT INTO session_events ({_EVENT})
        SELECT {now}, 'expired', 'expired', 'cleanup', {_LIFE}, created_at, true, {_LIFETIME[engine]}
        FROM sessions WHERE expires_at <= {now}
        """,
        f"DELETE FROM sessions WHERE expires_at <= {now}",
    )
    for engine, now in _NOW.items()
}
