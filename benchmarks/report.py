"""What came of it, for people: tables."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from benchmarks.contest import Cell
from benchmarks.targets import Target


def show(cells: Sequence[Cell], console: Console) -> None:
    """Print one table for each engine and discipline; ratios are ours against each peer."""
    for (engine, discipline), group in groupby(cells, key=lambda cell: (cell.engine, cell.discipline)):
        callers = "one caller" if discipline.callers == 1 else f"{discipline.callers} callers"
        console.print(_table(f"{engine}: {discipline.operation}, {callers}", list(group)))


def _table(title: str, cells: Sequence[Cell]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("contender")
    headings = (
        "calls/s",
        "p50 ms",
        "p99 ms",
        "CPU µs a call",
        "of it its process",
        "ours, calls/s",
        "ours, p50",
        "ours, p99",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    ours = cells[0].measured
    for cell in cells:
        its = cell.measured
        ratios = (ours.per_second / its.per_second, ours.p50 / its.p50, ours.p99 / its.p99)
        table.add_row(
            cell.contender,
            f"{its.per_second:,.0f}",
            f"{its.p50 * 1e3:.3f}",
            f"{its.p99 * 1e3:.2f}",
            f"{its.cpu * 1e6:.0f}",
            f"{its.client_cpu * 1e6:.0f}",
            *(("", "", "") if cell is cells[0] else _times(ratios)),
        )
    return table


def _times(ratios: Iterable[float]) -> tuple[str, ...]:
    return tuple(f"{ratio:.2f} ×" for ratio in ratios)


def show_targets(targets: Sequence[Target], console: Console) -> None:
    """Print what was to be reached, and what was."""
    table = Table(title="targets", title_justify="left", title_style="bold")
    for heading in ("what", "target", "measured", "met"):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for each in targets:
        table.add_row(each.what, each.wanted, f"{each.measured:,.3g}{each.unit}", "yes" if each.is_met else "NO")
    console.print(table)
