"""The command with the numbers that an operator looks at first: ``stats``."""

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mcp_sessions.cli import options, output
from mcp_sessions.cli.output import cell, iso_time, short_time
from mcp_sessions.cli.runner import settings_of, with_manager
from mcp_sessions.records.statistics import Activity, CleanupRun, Statistics

app = typer.Typer(rich_markup_mode="markdown")

_BARS = " ▁▂▃▄▅▆▇█"


@app.command(epilog=options.examples("mcp-sessions stats", "mcp-sessions stats --json"))
def stats(
    *,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Show what is live, what the last hour and day brought, the last cleanup run, and the biggest tenants."""
    found = with_manager(settings_of(database_url, database_schema), lambda manager: manager.stats())
    if as_json:
        output.print_json(_document(found))
    else:
        output.stdout().print(Group(_now(found), Text(), _activities(found), Text(), _hours(found), *_tenants(found)))


def _document(found: Statistics) -> dict[str, Any]:
    run = found.last_cleanup
    return {
        "at": iso_time(found.at),
        "live": found.live,
        **({"live_by_handle": found.live_by_handle} if found.live_by_handle else {}),
        "expired": found.expired,
        "last_hour": _activity_document(found.last_hour),
        "last_day": _activity_document(found.last_day),
        "hours": [
            {
                "ends_at": iso_time(each.ends_at),
                "opened": each.opened,
                "ended": each.ended,
                "open_at_end": each.open_at_end,
            }
            for each in found.hours
        ],
        "tenants": [{"tenant_id": tenant_id, "live": live} for tenant_id, live in found.tenants],
        "last_cleanup": None if run is None else _run_document(run),
    }


def _activity_document(activity: Activity) -> dict[str, Any]:
    return {
        "opened": activity.opened,
        "ended": sum(activity.ended.values()),
        **{str(kind): number for kind, number in activity.ended.items()},
        "refused": activity.refused,
        "average_life_seconds": activity.average_life_seconds,
    }


def _run_document(run: CleanupRun) -> dict[str, Any]:
    return {
        "worker": run.worker,
        "started_at": iso_time(run.started_at),
        "ended_at": None if run.ended_at is None else iso_time(run.ended_at),
        "sessions_removed": run.sessions_removed,
        "events_removed": run.events_removed,
        "error": run.error,
    }


def _now(found: Statistics) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("live now", str(found.live))
    if found.live_by_handle:
        table.add_row("  by handle", str(found.live_by_handle))
    table.add_row("expired, not removed yet", str(found.expired))
    table.add_row("last cleanup (UTC)", cell(_in_words(found.last_cleanup)))
    return table


def _in_words(run: CleanupRun | None) -> str:
    if run is None:
        return "never"
    state = "running" if run.ended_at is None else "done" if run.error is None else f"failed: {run.error}"
    removed = f"{run.sessions_removed} sessions and {run.events_removed} events removed"
    return f"{short_time(run.started_at)}, {removed}, {state}"


def _activities(found: Statistics) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    for name in ("last hour", "last 24 hours"):
        table.add_column(name, justify="right")
    both = [_activity_document(each) for each in (found.last_hour, found.last_day)]
    for name in both[0]:
        indent = "  " if name in found.last_day.ended else ""
        if name == "average_life_seconds":
            table.add_row("average life", *(_duration(each[name]) for each in both))
        else:
            table.add_row(f"{indent}{name}", *(str(each[name]) for each in both))
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _hours(found: Statistics) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("hours", "24 h ago ... now", "most"):
        table.add_column(name, no_wrap=True, justify="right" if name == "most" else "left")
    for name, numbers in (
        ("open", [each.open_at_end for each in found.hours]),
        ("opened", [each.opened for each in found.hours]),
    ):
        table.add_row(name, _sparkline(numbers), str(max(numbers)))
    return table


def _sparkline(numbers: Sequence[int]) -> str:
    """Draw one bar a number, to the scale of the largest; only nothing is drawn as nothing."""
    most = max(*numbers, 1)
    return "".join(_BARS[-(-max(each, 0) * (len(_BARS) - 1) // most)] for each in numbers)


def _tenants(found: Statistics) -> list[RenderableType]:
    if not found.tenants:
        return []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("tenant", overflow="fold")
    table.add_column("live", justify="right")
    for tenant_id, live in found.tenants:
        table.add_row(cell(tenant_id), str(live))
    return [Text(), table]
