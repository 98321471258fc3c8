"""The command behind ``scripts/bench``."""

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.contenders import ON_POSTGRES, ON_SQLITE
from benchmarks.contenders.base import Operation
from benchmarks.contest import Cell, Discipline, compete, started
from benchmarks.report import show
from benchmarks.servers import redis_program, running_postgres, running_redis, settle_on_a_disk

DISCIPLINES = (
    Discipline(Operation.RESUME_TOUCHING, 256),
    Discipline(Operation.RESUME_TOUCHING, 1),
    Discipline(Operation.RESUME, 256),
    Discipline(Operation.RESUME, 1),
    Discipline(Operation.CREATE, 256),
)


def main(
    quick: Annotated[bool, typer.Option(help="About a minute, and rough.")] = False,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine: postgres or sqlite.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Only these, by class name.")] = None,
    seconds: Annotated[float | None, typer.Option(help="The length of one burst.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How many bursts make a median.")] = None,
    sessions: Annotated[int | None, typer.Option(help="How many sessions each store holds.")] = None,
    results: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("benchmarks/results"),
) -> None:
    """Compare the session store with its peers on this machine."""
    console = Console()
    if not console.is_terminal:
        console.width = 130
    settle_on_a_disk()
    seconds = seconds or (0.4 if quick else 2.0)
    rounds = rounds or (2 if quick else 5)
    sessions = sessions or (20_000 if quick else 100_000)
    cells: list[Cell] = []
    with console.status("") as status:
        for name in engine or ("postgres", "sqlite"):
            entries_of = _on_postgres if name == "postgres" else _on_sqlite
            with ExitStack() as running:
                entries = entries_of(running, contender, console)
                status.update(f"{name}: filling the stores")
                contenders = running.enter_context(started(entries, sessions))
                for each in contenders:
                    console.print(f"[bold]{each.name}[/bold] on {name}: {each.settings}", highlight=False)
                cells += compete(
                    name, contenders, DISCIPLINES, rounds=rounds, seconds=seconds, progress=status.update
                )
    show(cells, console)
    results.mkdir(parents=True, exist_ok=True)
    (results / "store.json").write_text(json.dumps([asdict(cell) for cell in cells], indent=1))


def _on_postgres(running: ExitStack, only: list[str] | None, console: Console) -> list[tuple[str, str, int | None]]:
    server = running.enter_context(running_postgres())
    program = redis_program()
    entries: list[tuple[str, str, int | None]] = []
    for kind in (kind for kind in ON_POSTGRES if only is None or kind in only):
        if not kind.startswith("Redis"):
            server.create_database(kind.lower())
            entries.append((kind, server.url(kind.lower()), server.pid))
        elif program is not None:
            appendfsync = "always" if kind == "RedisAlways" else "everysec"
            redis = running.enter_context(running_redis(program, appendfsync))
            entries.append((kind, redis.url, redis.pid))
        else:
            console.print("No redis-server on this machine (Debian and Ubuntu: apt-get install redis-server): skipped.")
    return entries


def _on_sqlite(running: ExitStack, only: list[str] | None, _: Console) -> list[tuple[str, str, int | None]]:
    folder = running.enter_context(tempfile.TemporaryDirectory(prefix="sqlite-bench-"))
    return [
        (kind, f"sqlite:///{folder}/{kind.lower()}.db", None) for kind in ON_SQLITE if only is None or kind in only
    ]


if __name__ == "__main__":
    typer.run(main)
