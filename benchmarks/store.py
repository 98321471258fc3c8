"""The stores' part of the benchmark: who takes part on which engine, and in what."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.contenders import ON_POSTGRES, ON_SQLITE
from benchmarks.contenders.base import Operation
from benchmarks.contest import Cell, Discipline, Entry, compete, started
from benchmarks.servers import redis_program, running_postgres, running_redis

DISCIPLINES = (
    Discipline(Operation.RESUME_TOUCHING, 256),
    Discipline(Operation.RESUME_TOUCHING, 1),
    Discipline(Operation.RESUME, 256),
    Discipline(Operation.RESUME, 1),
    Discipline(Operation.CREATE, 256),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: bursts of so many seconds, so many for a median, on so many sessions."""

    seconds: float
    rounds: int
    sessions: int


def contest(
    engine: str, only: Sequence[str] | None, size: Size, console: Console, progress: Callable[[str], None]
) -> Iterator[Cell]:
    """Yield what the contenders (``only`` those of these class names) did on one engine."""
    with ExitStack() as running:
        progress(f"{engine}: filling the stores")
        entries = (_on_postgres if engine == "postgres" else _on_sqlite)(running, only, console)
        contenders = running.enter_context(started(entries, size.sessions))
        for each in contenders:
            console.print(f"[bold]{each.name}[/bold] on {engine}: {each.settings}", highlight=False)
        yield from compete(engine, contenders, DISCIPLINES, rounds=size.rounds, seconds=size.seconds, progress=progress)


def _on_postgres(running: ExitStack, only: Sequence[str] | None, console: Console) -> list[Entry]:
    server = running.enter_context(running_postgres())
    program = redis_program()
    entries: list[Entry] = []
    for kind in (kind for kind in ON_POSTGRES if only is None or kind in only):
        if not kind.startswith("Redis"):
            server.create_database(kind.lower())
            entries.append((kind, server.url(kind.lower()), server.pid))
        elif program is not None:
            redis = running.enter_context(running_redis(program, "always" if kind == "RedisAlways" else "everysec"))
            entries.append((kind, redis.url, redis.pid))
        else:
            console.print("No redis-server on this machine (Debian and Ubuntu: apt-get install redis-server): skipped.")
    return entries


def _on_sqlite(running: ExitStack, only: Sequence[str] | None, _: Console) -> list[Entry]:
    folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="sqlite-bench-")))
    return [(kind, f"sqlite:///{folder}/{kind.lower()}.db", None) for kind in ON_SQLITE if only is None or kind in only]
