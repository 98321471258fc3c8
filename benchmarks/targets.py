"""The targets: what this package sets out to reach, as ratios of figures from one run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.contenders.base import Operation
from benchmarks.contest import Cell
from benchmarks.load import Measured

Figure = Callable[[Measured], float]


@dataclass(frozen=True, slots=True)
class Target:
    """One ratio, what it shall be, and what it was."""

    what: str
    against: str
    limit: float | None
    measured: float
    at_least: bool
    unit: str = " ×"

    @property
    def is_met(self) -> bool:
        """Whether the ratio is on the right side of its limit, if there is one."""
        if self.limit is None:
            return True
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def wanted(self) -> str:
        """The limit in words."""
        if self.limit is None:
            return f"none, against {self.against}" if self.against else "none"
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit} {self.against}".strip()


@dataclass(frozen=True, slots=True)
class _Goal:
    engine: str
    operation: Operation
    callers: int
    figure: str
    peer: str
    limit: float


_TOUCHING, _DEFAULT, _CREATE = Operation.RESUME_TOUCHING, Operation.RESUME, Operation.CREATE
_GOALS = (
    _Goal("postgres", _TOUCHING, 256, "calls/s", "asyncpg", 3.0),
    _Goal("postgres", _TOUCHING, 256, "calls/s", "redis-py", 2.0),
    _Goal("postgres", _DEFAULT, 256, "calls/s", "redis-py", 5.0),
    _Goal("sqlite", _TOUCHING, 256, "calls/s", "aiosqlite", 5.0),
    _Goal("sqlite", _TOUCHING, 256, "calls/s", "mcp-persist", 1.5),
    _Goal("sqlite", _DEFAULT, 256, "calls/s", "mcp-persist", 5.0),
    _Goal("postgres", _TOUCHING, 256, "p99", "asyncpg", 0.25),
    _Goal("sqlite", _TOUCHING, 256, "p99", "aiosqlite", 0.25),
    _Goal("postgres", _DEFAULT, 1, "p50", "mcp-persist", 1.0),
    _Goal("postgres", _DEFAULT, 1, "p50", "asyncpg", 1.5),
    _Goal("sqlite", _DEFAULT, 1, "p50", "mcp-persist", 1.0),
    _Goal("sqlite", _DEFAULT, 1, "p50", "aiosqlite", 1.5),
    _Goal("postgres", _CREATE, 256, "calls/s", "asyncpg", 3.0),
    _Goal("sqlite", _CREATE, 256, "calls/s", "aiosqlite", 3.0),
)
_FIGURES: dict[str, Figure] = {
    "calls/s": lambda measured: measured.per_second,
    "p50": lambda measured: measured.p50,
    "p99": lambda measured: measured.p99,
}


def of_stores(cells: Sequence[Cell]) -> Iterator[Target]:
    """Yield the targets of the stores that this run can tell of; ours is the first contender of each discipline."""
    measured = {
        (cell.engine, cell.discipline.operation, cell.discipline.callers, cell.contender): cell.measured
        for cell in cells
    }
    for goal in _GOALS:
        place = goal.engine, goal.operation, goal.callers
        ours, its = measured.get((*place, "mcp-sessions")), measured.get((*place, goal.peer))
        if ours is None or its is None:
            continue
        figure = _FIGURES[goal.figure]
        callers = "one caller" if goal.callers == 1 else f"{goal.callers} callers"
        yield Target(
            f"{goal.engine}: {goal.operation}, {callers}: {goal.figure}",
            goal.peer,
            goal.limit,
            figure(ours) / figure(its),
            at_least=goal.figure == "calls/s",
        )
