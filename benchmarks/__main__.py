"""The command behind ``scripts/bench``."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks import http, messages, state, store, targets, trail, upkeep
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders import contender as contender_class
from benchmarks.plot import draw
from benchmarks.report import show, show_targets
from benchmarks.served import SETTINGS
from benchmarks.servers import settle_on_a_disk

if TYPE_CHECKING:
    from benchmarks.contest import Cell
    from benchmarks.targets import Target


class Engine(StrEnum):
    """Where our sessions are kept, and our peers' beside them."""

    POSTGRES = "postgres"
    SQLITE = "sqlite"


class Part(StrEnum):
    """What is measured."""

    STORE = "store"
    STATE = "state"
    TRAIL = "trail"
    UPKEEP = "upkeep"
    HTTP = "http"
    MESSAGES = "messages"


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute, and rough: the stores and HTTP.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Ten million sessions instead of one.")] = False,
    part: Annotated[list[Part] | None, typer.Option(help="Only this part; may be given again.")] = None,
    engine: Annotated[list[Engine] | None, typer.Option(help="Only this engine; may be given again.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="Only this store, by class name; Ours is ours.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="The length of one burst.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How many bursts make a median.")] = None,
    sessions: Annotated[int | None, typer.Option(min=1000, help="How many sessions each store holds.")] = None,
    before: Annotated[
        Path | None, typer.Option(help="A checkout of an earlier version, to compare calls with.", exists=True)
    ] = None,
    results: Annotated[Path, typer.Option(help="The folder for the figures and the plot.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Compare this package with its peers, on this machine, side by side in one run.

    For example, the stores on Postgres alone: scripts/bench --quick --part store --engine postgres
    """
    if unknown := set(contender or ()) - CONTENDERS:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(sorted(CONTENDERS))}")
    console = Console()
    if not console.is_terminal:
        console.width = 130
    settle_on_a_disk()
    usual = store.Size(0.25, 1, 10_000) if quick else store.Size(2.0, 5, 100_000)
    size = store.Size(seconds or usual.seconds, rounds or usual.rounds, sessions or usual.sessions)
    results.mkdir(parents=True, exist_ok=True)
    parts = part or ([Part.STORE, Part.HTTP] if quick else list(Part))
    with console.status("") as status:
        run = _Run(engine or list(Engine), size, contender, results, console, status.update)
        measure: dict[Part, Callable[[], None]] = {
            Part.STORE: run.store,
            Part.STATE: run.state,
            Part.TRAIL: run.trail,
            Part.UPKEEP: partial(run.upkeep, upkeep.default_scale(quick=quick, full=full)),
            Part.HTTP: partial(run.http, 200 if quick else 50_000),
            Part.MESSAGES: partial(run.messages, before, messages.default_scale(quick=quick)),
        }
        try:
            for each, measured in measure.items():
                if each in parts:
                    measured()
        finally:  # whatever failed, what was measured before is told
            run.tell()


@dataclass
class _Run:
    """One run of the benchmark: on which engines and how much is measured, and what came of it so far."""

    engines: Sequence[str]
    size: store.Size
    only: Sequence[str] | None
    results: Path
    console: Console
    progress: Callable[[str], None]
    cells: "list[Cell]" = field(default_factory=list)
    reached: "list[Target]" = field(default_factory=list)

    def store(self) -> None:
        """Measure the stores of sessions."""
        cells = self._contest(store.contest)
        self.reached += targets.of_stores(cells)
        draw([cell for cell in cells if cell.discipline.callers > 1], self.results / "stores.png")
        self._write("stores.json", {"settings": _settings(), "cells": [asdict(cell) for cell in cells]})

    def state(self) -> None:
        """Measure the state of sessions."""
        cells = self._contest(state.contest)
        self.reached += [*targets.of_state(cells), *state.lost_by(cells)]
        self._write("state.json", {"settings": _settings(), "cells": [asdict(cell) for cell in cells]})

    def trail(self) -> None:
        """Measure what the audit trail costs."""
        lives = [cell for name in self.engines for cell in trail.trail(name, self.size, self.progress)]
        self.reached += trail.cost_of(lives)
        self.cells += lives
        self._write("trail.json", [asdict(cell) for cell in lives])

    def upkeep(self, scale: upkeep.Scale) -> None:
        """Measure what time does to a store."""
        for name in self.engines:
            self.reached += upkeep.upkeep(name, scale, self.size.seconds, self.size.rounds, self.progress)

    def http(self, idle: int) -> None:
        """Measure calls over HTTP, and the memory of idle sessions."""
        cells = list(http.contest(self.engines, self.size.seconds, self.size.rounds, self.console, self.progress))
        self.cells += cells
        self.reached += targets.over_http(cells)
        draw(cells, self.results / "http.png")
        self._write("http.json", {"settings": SETTINGS, "cells": [asdict(cell) for cell in cells]})
        self.reached += http.memory(self.engines, idle, self.progress)

    def messages(self, before: Path | None, scale: messages.Scale) -> None:
        """Measure what crosses from worker to worker."""
        if before is None:
            self.console.print("No --before: ordinary calls are not compared with those of an earlier version.")
        cells = [
            cell
            for name in self.engines
            for cell in messages.contest(name, self.size.seconds, self.size.rounds, before, self.progress)
        ]
        self.cells += cells
        self.reached += messages.of_messages(cells)
        self._write("messages.json", [asdict(cell) for cell in cells])
        self.reached += messages.idle_costs(self.engines, scale, self.progress)

    def tell(self) -> None:
        """Print all of it, and write down the targets."""
        show(self.cells, self.console)
        show_targets(self.reached, self.console)
        self._write("targets.json", [asdict(each) | {"met": each.is_met} for each in self.reached])

    def _contest(self, contest: "Contest") -> "list[Cell]":
        cells: list[Cell] = []
        for name in self.engines:
            cells += contest(name, self.only, self.size, self.console, self.progress)
        self.cells += cells
        return cells

    def _write(self, name: str, figures: object) -> None:
        (self.results / name).write_text(json.dumps(figures, indent=1) + "\n")


Contest = Callable[[str, Sequence[str] | None, store.Size, Console, Callable[[str], None]], "Iterator[Cell]"]
"""A contest of stores: the engine, who takes part, how much is measured, where to say what."""


def _settings() -> dict[str, str]:
    classes = [contender_class(kind) for kind in sorted(CONTENDERS)]
    return {each.name: each.settings for each in classes}


if __name__ == "__main__":
    typer.run(main)
