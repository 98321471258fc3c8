"""The hours of ``stats`` as an image file: how many sessions were open, how many were opened and ended.

It is drawn by matplotlib, which the extra ``plot`` installs; nothing else needs that.
"""

from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path

from mcp_sessions.errors import ConfigurationError, InvalidInputError
from mcp_sessions.records.statistics import Statistics

_FORMATS = (".png", ".svg")
_OPEN, _OPENED, _ENDED = "#1f6feb", "#2da44e", "#b6bec8"


def chart_to(file: Path) -> Callable[[Statistics], None]:
    """Return what draws the chart into this file, in the format that its name ends with.

    Raises:
        InvalidInputError: the name ends with no format there is.
        ConfigurationError: matplotlib is not installed; the message names the command that installs it.
    """
    if file.suffix.lower() not in _FORMATS:
        raise InvalidInputError(f"--image takes the name of a file that ends with {' or '.join(_FORMATS)}")
    try:
        import matplotlib.figure  # noqa: F401 - not installed with the package, and slow to load
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a picture takes matplotlib (there is no module {error.name}): pip install 'mcp-sessions[plot]'"
        ) from error

    def draw(found: Statistics) -> None:
        try:
            _draw(found, file)
        except OSError as error:
            raise InvalidInputError(f"--image cannot be written: {error}") from error

    return draw


def _draw(found: Statistics, file: Path) -> None:
    from matplotlib.dates import DateFormatter
    from matplotlib.figure import Figure

    ends = [each.ends_at.astimezone(UTC) for each in found.hours]
    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    open_then = [each.open_at_end for each in found.hours]
    above.fill_between(ends, open_then, color=_OPEN, alpha=0.25)
    above.plot(ends, open_then, color=_OPEN)
    above.set_title(f"Sessions open: {found.live} live at {ends[-1]:%Y-%m-%d %H:%M} UTC", loc="left")
    opened, ended = [each.opened for each in found.hours], [each.ended for each in found.hours]
    for name, numbers, colour, hours_before in (("opened", opened, _OPENED, 0.9), ("ended", ended, _ENDED, 0.5)):
        starts = [each - timedelta(hours=hours_before) for each in ends]
        below.bar(starts, numbers, width=timedelta(hours=0.4), align="edge", color=colour, label=name)
    below.set_title("Opened and ended in each hour", loc="left")
    below.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=2)
    below.set_xlabel("UTC")
    below.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=UTC))  # type: ignore[no-untyped-call]  # has no types
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.get_major_locator().set_params(integer=True)
    figure.savefig(file, dpi=110, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
