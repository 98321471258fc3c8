"""The command behind ``scripts/bench``."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks import http, state, store, targets, trail, upkeep
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
    reached: list[Target] = []
    cells: list[Cell] = []
    results.mkdir(parents=True, exist_ok=True)
    parts, engines = part or ([Part.STORE, Part.HTTP] if quick else list(Part)), engine or list(Engine)
    try:
        with console.status("") as status:
            if Part.STORE in parts:
                for name in engines:
                    cells += store.contest(name, contender, size, console, status.update)
                reached += targets.of_stores(cells)
                draw([cell for cell in cells if cell.discipline.callers > 1], results / "stores.png")
                _write(results / "stores.json", {"settings": _settings(), "cells": [asdict(cell) for cell in cells]})
            if Part.STATE in parts:
                of_state = [
                    cell for name in engines for cell in state.contest(name, contender, size, console, status.update)
                ]
                reached += [*targets.of_state(of_state), *state.lost_by(of_state)]
                _write(results / "state.json", {"settings": _settings(), "cells": [asdict(cell) for cell in of_state]})
                cells += of_state
            if Part.TRAIL in parts:
                lives = [cell for name in engines for cell in trail.trail(name, size, status.update)]
                reached += trail.cost_of(lives)
                _write(results / "trail.json", [asdict(cell) for cell in lives])
                cells += lives
            if Part.UPKEEP in parts:
                scale = upkeep.default_scale(quick=quick, full=full)
                for name in engines:
                    reached += upkeep.upkeep(name, scale, size.seconds, size.rounds, status.update)
            if Part.HTTP in parts:
                over_http = list(http.contest(engines, size.seconds, size.rounds, console, status.update))
                reached += targets.over_http(over_http)
                draw(over_http, results / "http.png")
                _write(results / "http.json", {"settings": SETTINGS, "cells": [asdict(cell) for cell in over_http]})
                cells += over_http
                reached += http.memory(engines, 200 if quick else 50_000, status.update)
    finally:  # whatever failed, what was measured before is told
        show(cells, console)
        show_targets(reached, console)
        _write(results / "targets.json", [asdict(each) | {"met": each.is_met} for each in reached])


def _settings() -> dict[str, str]:
    classes = [contender_class(kind) for kind in sorted(CONTENDERS)]
    return {each.name: each.settings for each in classes}


def _write(file: Path, figures: object) -> None:
    file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
