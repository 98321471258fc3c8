"""The state's part of the benchmark: what belongs to a session, got, set and changed, beside FastMCP's own sessions.

FastMCP has no store of SQLite that several workers share, so its sessions take part on their Postgres and their Redis
beside ours on either engine. What is asked for last is how many of the acknowledged updates are not there: many callers
change what belongs to few sessions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from benchmarks.contenders import WITH_STATE
from benchmarks.contenders.base import StateOperation
from benchmarks.contest import Cell, Discipline
from benchmarks.served import OURS
from benchmarks.store import Size, contest_of
from benchmarks.targets import Target

_MOST_SESSIONS, _IN_USE, _FEW = 10_000, 1000, 16
_DISCIPLINES = (
    *(
        Discipline(operation, callers, _IN_USE)
        for operation in (StateOperation.GET, StateOperation.SET, StateOperation.UPDATE)
        for callers in (256, 1)
    ),
    Discipline(StateOperation.UPDATE_OF_FEW, 256, _FEW),
)


def contest(
    engine: str, only: Sequence[str] | None, size: Size, console: Console, progress: Callable[[str], None]
) -> Iterator[Cell]:
    """Yield what the contenders (``only`` those of these class names) did on one engine."""
    kinds = [kind for kind in WITH_STATE if only is None or kind in only]
    size = replace(size, sessions=min(size.sessions, _MOST_SESSIONS))
    return contest_of(kinds, _DISCIPLINES, engine, size, console=console, progress=progress)


def lost_by(cells: Sequence[Cell]) -> Iterator[Target]:
    """Yield the share of the acknowledged updates that each contender lost."""
    for cell in cells:
        if cell.discipline.operation == StateOperation.UPDATE_OF_FEW:
            yield Target(
                f"{cell.engine}: {cell.discipline.operation}, {cell.discipline.callers} callers: lost by "
                f"{cell.contender}",
                "",
                0.0 if cell.contender == OURS else None,
                100 * cell.measured.lost,
                at_least=False,
                unit=" %",
            )
