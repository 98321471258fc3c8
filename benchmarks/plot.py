"""What came of it, as a picture: calls a second of every store, and its 99th percentile."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.contest import Cell

_OURS, _OTHERS = "#1f6feb", "#b6bec8"


def draw(cells: Sequence[Cell], to: Path) -> None:
    """Write the PNG: a row for each discipline with many callers, a column for each engine."""
    crowded = [cell for cell in cells if cell.discipline.callers > 1]
    engines = list(dict.fromkeys(cell.engine for cell in crowded))
    operations = list(dict.fromkeys(cell.discipline.operation for cell in crowded))
    if not crowded:
        return
    figure = Figure(figsize=(6 * len(engines), 2.6 * len(operations)), layout="constrained")
    places = figure.subplots(len(operations), len(engines), squeeze=False)
    by_place = groupby(crowded, key=lambda cell: (cell.engine, cell.discipline))
    for (engine, discipline), group in by_place:
        bars = list(group)[::-1]
        axes = places[operations.index(discipline.operation)][engines.index(engine)]
        colours = [_OURS if cell.contender == "mcp-sessions" else _OTHERS for cell in bars]
        drawn = axes.barh([cell.contender for cell in bars], [cell.measured.per_second for cell in bars], color=colours)
        labels = [f" {cell.measured.per_second:,.0f}/s, p99 {cell.measured.p99 * 1e3:.0f} ms" for cell in bars]
        axes.bar_label(drawn, labels, fontsize=8)
        axes.set_title(f"{engine}: {discipline.operation}, {discipline.callers} callers", fontsize=10, loc="left")
        axes.margins(x=0.35)
        axes.xaxis.set_visible(False)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(to, dpi=110)
