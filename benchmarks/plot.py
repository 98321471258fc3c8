"""What came of it, as a picture: calls a second where many call, and the time of a call where one does."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.contest import Cell

_OURS, _OTHERS = "#1f6feb", "#b6bec8"


def draw(cells: Sequence[Cell], to: Path) -> None:
    """Write the PNG: a row for each discipline, a column for each engine."""
    engines = list(dict.fromkeys(cell.engine for cell in cells))
    disciplines = list(dict.fromkeys(cell.discipline for cell in cells))
    if not cells:
        return
    figure = Figure(figsize=(6 * len(engines), 2.6 * len(disciplines)), layout="constrained")
    places = figure.subplots(len(disciplines), len(engines), squeeze=False)
    for (engine, discipline), group in groupby(cells, key=lambda cell: (cell.engine, cell.discipline)):
        bars = list(group)[::-1]
        axes = places[disciplines.index(discipline)][engines.index(engine)]
        colours = [_OURS if cell.contender == "mcp-sessions" else _OTHERS for cell in bars]
        figures, labels = zip(*(_bar(cell) for cell in bars), strict=True)
        axes.bar_label(axes.barh([cell.contender for cell in bars], figures, color=colours), labels, fontsize=8)
        callers = "one caller, p50" if discipline.callers == 1 else f"{discipline.callers} callers"
        axes.set_title(f"{engine}: {discipline.operation}, {callers}", fontsize=10, loc="left")
        axes.margins(x=0.35)
        axes.xaxis.set_visible(False)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(to, dpi=110)


def _bar(cell: Cell) -> tuple[float, str]:
    """Return the length of a bar and what stands at its end."""
    its = cell.measured
    if cell.discipline.callers == 1:
        return its.p50, f" {its.p50 * 1e3:.2f} ms"
    return its.per_second, f" {its.per_second:,.0f}/s, p99 {its.p99 * 1e3:.0f} ms"
