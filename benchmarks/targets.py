"""The targets: what this package sets out to reach, as ratios of figures from one run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.clients import Operation as OverHttp
from benchmarks.contenders.base import Operation, StateOperation
from benchmarks.contest import Cell
from benchmarks.load import Measured
from benchmarks.served import IN_MEMORY, MCP_PERSIST, MEASURED, OURS

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
    operation: str
    callers: int
    figure: str
    peer: str
    limit: float | None


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
_OVER_HTTP = [
    _Goal(engine, *goal)
    for engine in ("postgres", "sqlite")
    for goal in (
        (OverHttp.CALL, 1, "p50", IN_MEMORY, 1.15),
        (OverHttp.CALL, 1, "CPU of its process", IN_MEMORY, None),
        (OverHttp.CALL, 1, "p50", MCP_PERSIST, None),
        (OverHttp.CALL, 64, "calls/s", IN_MEMORY, 0.85),
        (OverHttp.CALL, 64, "calls/s", MCP_PERSIST, None),
        (OverHttp.OPEN, 1, "p50", IN_MEMORY, None),
        (OverHttp.OPEN, 1, "p50", MCP_PERSIST, None),
        (OverHttp.RESTORE, 1, "p50", MCP_PERSIST, None),
    )
]
_OF_STATE = [
    _Goal(engine, operation, callers, "calls/s", peer, limit)
    for engine in ("postgres", "sqlite")
    for operation in (StateOperation.GET, StateOperation.SET, StateOperation.UPDATE)
    for callers in (256, 1)
    for peer, limit in (
        ("FastMCP over Postgres", 2.0),
        ("FastMCP over Redis", 2.0),
        ("FastMCP over Redis, fsync always", None),
    )
]
_FIGURES: dict[str, Figure] = {
    "calls/s": lambda measured: measured.per_second,
    "p50": lambda measured: measured.p50,
    "p99": lambda measured: measured.p99,
    "CPU of its process": lambda measured: measured.client_cpu,
}


def of_stores(cells: Sequence[Cell]) -> Iterator[Target]:
    """Yield the targets of the stores that this run can tell of."""
    return _reached(_GOALS, _by_place(cells))


def of_state(cells: Sequence[Cell]) -> Iterator[Target]:
    """Yield the targets of the state of sessions."""
    return _reached(_OF_STATE, _by_place(cells))


def over_http(cells: Sequence[Cell]) -> Iterator[Target]:
    """Yield the targets over HTTP; a restored session is compared with a call on one that the worker has."""
    measured = _by_place(cells)
    yield from _reached(_OVER_HTTP, measured)
    for engine in dict.fromkeys(cell.engine for cell in cells):
        restored, called = (measured[engine, operation, 1, OURS].p50 for operation in (OverHttp.RESTORE, OverHttp.CALL))
        what = f"{engine}: {OverHttp.RESTORE}, one caller: p50"
        yield Target(what, f"a {OverHttp.CALL}", 3.0, restored / called, at_least=False)
        observed = measured[engine, OverHttp.CALL, 1, MEASURED].p50
        what = f"{engine}: {OverHttp.CALL}, one caller, with metrics: p50"
        yield Target(what, "without", 1.05, observed / called, at_least=False)


_Place = tuple[str, str, int, str]


def _by_place(cells: Sequence[Cell]) -> dict[_Place, Measured]:
    return {
        (cell.engine, cell.discipline.operation, cell.discipline.callers, cell.contender): cell.measured
        for cell in cells
    }


def _reached(goals: Iterable[_Goal], measured: Mapping[_Place, Measured]) -> Iterator[Target]:
    for goal in goals:
        place = goal.engine, goal.operation, goal.callers
        ours, its = measured.get((*place, OURS)), measured.get((*place, goal.peer))
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
