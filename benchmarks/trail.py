"""What the audit trail costs: sessions created and ended with it and without it, side by side."""

from collections.abc import Callable, Iterator

from benchmarks.contenders.base import Operation
from benchmarks.contest import Cell, Discipline, compete, started
from benchmarks.store import Size
from benchmarks.targets import Target
from benchmarks.upkeep import places

_DISCIPLINES = (Discipline(Operation.CREATE, 256), Discipline(Operation.CREATE_AND_END, 256))


def trail(engine: str, size: Size, progress: Callable[[str], None]) -> Iterator[Cell]:
    """Yield what sessions cost with the trail and without it, on one engine."""
    with places(engine) as place:
        pid = place.server.pid if place.server is not None else None
        entries = [(kind, place.create(kind.lower()), pid) for kind in ("Ours", "OursWithoutTrail")]
        progress(f"{engine}: filling stores with and without a trail")
        with started(entries, size.sessions) as stores:
            yield from compete(
                engine, stores, _DISCIPLINES, rounds=size.rounds, seconds=size.seconds, progress=progress
            )


def cost_of(cells: list[Cell]) -> Iterator[Target]:
    """Yield the time a call takes with the trail, against the time without it."""
    for with_it, without_it in zip(cells[::2], cells[1::2], strict=True):
        yield Target(
            f"{with_it.engine}: {with_it.discipline.operation}, {with_it.discipline.callers} callers: time a call",
            without_it.contender,
            None,
            without_it.measured.per_second / with_it.measured.per_second,
            at_least=False,
        )
