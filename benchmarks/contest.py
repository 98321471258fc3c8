"""Lets the contenders of one engine take turns: A B C, B C A, and so on, burst by burst."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from benchmarks.contenders import contender
from benchmarks.load import Measured

_PATIENCE_SECONDS = 30

Entry = tuple[str, str, int | None]
"""A contender that takes part: its class name, its URL, and the process id of its server if it has one."""


class Entrant(Protocol):
    """Whoever takes its turns in a contest."""

    @property
    def name(self) -> str:
        """How it is called in this contest."""

    def burst(self, discipline: "Discipline", seconds: float) -> Measured:
        """Carry out one burst."""


class ContenderProcess:
    """A contender in a process of its own."""

    def __init__(self, kind: str, url: str, server_pid: int | None, sessions: int) -> None:
        self.kind = kind
        self.name = contender(kind).name
        self.settings = contender(kind).settings
        command = [sys.executable, "-m", "benchmarks.worker", kind, url, str(server_pid or 0), str(sessions)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()  # it may be filling its store still
        elif self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def wait_until_filled(self) -> None:
        """Return once its store is filled."""
        self._answer()

    def burst(self, discipline: "Discipline", seconds: float) -> Measured:
        """Have it carry out one burst."""
        order = {**asdict(discipline), "seconds": seconds}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return Measured(**self._answer())

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"{self.name} ended early, with status {self._process.wait()}: see above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True, slots=True)
class Discipline:
    """What is measured together: an operation, and a number of callers at once.

    ``in_use`` says how many of the stored sessions they call for; without it, up to 200,000.
    """

    operation: str
    callers: int
    in_use: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """What one contender did in one discipline."""

    engine: str
    discipline: Discipline
    contender: str
    measured: Measured
    rounds: tuple[Measured, ...]


@contextmanager
def started(entries: Sequence[Entry], sessions: int) -> Iterator[list[ContenderProcess]]:
    """Start contenders, which fill their stores side by side."""
    with ExitStack() as running:
        contenders = [running.enter_context(ContenderProcess(*entry, sessions)) for entry in entries]
        for each in contenders:
            each.wait_until_filled()
        yield contenders


def compete(
    engine: str,
    contenders: Sequence[Entrant],
    disciplines: Sequence[Discipline],
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Iterator[Cell]:
    """Yield the cells of one discipline after the other."""
    for discipline in disciplines:
        bursts: dict[str, list[Measured]] = {each.name: [] for each in contenders}
        for turn in range(rounds):
            first = turn % len(contenders)  # nobody always comes after the same one
            for each in (*contenders[first:], *contenders[:first]):
                progress(
                    f"{engine}: {discipline.operation}, {discipline.callers} callers, round {turn + 1}: {each.name}"
                )
                bursts[each.name].append(each.burst(discipline, seconds))
        for name, measured in bursts.items():
            yield Cell(engine, discipline, name, Measured.median_of(measured), tuple(measured))
