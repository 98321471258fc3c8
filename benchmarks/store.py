"""The stores' part of the benchmark: who takes part on which engine, and in what."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console

from benchmarks.contenders import ON_POSTGRES, ON_SQLITE
from benchmarks.contenders.base import Operation
from benchmarks.contest import Cell, Discipline, compete, started
from benchmarks.entries import Places

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
    kinds = [kind for kind in (ON_POSTGRES if engine == "postgres" else ON_SQLITE) if only is None or kind in only]
    return contest_of(kinds, DISCIPLINES, engine, size, console=console, progress=progress)


def contest_of(
    kinds: Sequence[str],
    disciplines: Sequence[Discipline],
    engine: str,
    size: Size,
    *,
    console: Console,
    progress: Callable[[str], None],
) -> Iterator[Cell]:
    """Yield what these contenders did in these disciplines, each with a store of its own that was filled before."""
    with ExitStack() as running:
        progress(f"{engine}: filling the stores")
        places = Places(engine, running, console)
        entries = [entry for kind in kinds if (entry := places.entry(kind)) is not None]
        contenders = running.enter_context(started(entries, size.sessions))
        for each in contenders:
            console.print(f"[bold]{each.name}[/bold] on {engine}: {each.settings}", highlight=False)
        yield from compete(engine, contenders, disciplines, rounds=size.rounds, seconds=size.seconds, progress=progress)
