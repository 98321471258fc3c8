"""What commands print: tables for people, JSON for programs, messages apart from both."""

import json
import os
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mcp_sessions.cleanup.run import Progress as ReportProgress
from mcp_sessions.logs import printable
from mcp_sessions.records.sessions import OWNER_FIELDS, Session

_TIMES = ("created_at", "last_activity_at", "expires_at")
_UNBOUNDED = 10_000
_NARROW = 72


def print_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command, in ASCII: it survives every encoding and every terminal."""
    typer.echo(json.dumps(document, indent=2))


def session_document(session: Session, by_handle: Container[bytes] = ()) -> dict[str, str | None]:
    """Return a session as programs get it: digest in hex, owner, times in ISO 8601 and UTC; ``found_by`` a handle."""
    owner = {name: getattr(session.owner, name) for name in OWNER_FIELDS}
    facts = {"digest": session.digest.hex()} | owner | {name: iso_time(getattr(session, name)) for name in _TIMES}
    return facts | ({"found_by": "handle"} if session.digest in by_handle else {})


def print_sessions(sessions: Iterable[Session], by_handle: Container[bytes] = ()) -> None:
    """Print a table of sessions, one line each where the terminal is wide enough; a narrow one gets blocks of lines.

    Where a session is found by a handle, a column tells how each of them is.
    """
    sessions = list(sessions)
    told = any(each.digest in by_handle for each in sessions)
    console = stdout()
    if console.width < _NARROW:
        for each in sessions:
            console.print(_facts(each, by_handle))
            console.print()
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("session", no_wrap=True)
    for name in ("tenant", "client", "subject"):
        table.add_column(name, overflow="fold")
    for name in ("created (UTC)", "expires (UTC)"):
        table.add_column(name, min_width=len("2026-11-22"))
    if told:
        table.add_column("found by", no_wrap=True)
    for each in sessions:
        owner = (each.owner.tenant_id, each.owner.client_id, each.owner.subject)
        found_by = ["handle" if each.digest in by_handle else "id"] if told else []
        times = short_time(each.created_at), short_time(each.expires_at)
        table.add_row(each.short_digest, *map(cell, owner), *times, *found_by)
    console.print(table)


def print_session(session: Session, by_handle: Container[bytes], sizes: Mapping[str, int]) -> None:
    """Print all of one session, one line a fact, and one for each entry of its state."""
    facts = _facts(session, by_handle)
    for name, size in sizes.items():
        facts.add_row("state", cell(f"{name} ({size} bytes)"))
    stdout().print(facts)


def say(message: str) -> None:
    """Tell the person in front of the terminal something that is not data: one line on standard error."""
    typer.echo(printable(" ".join(message.split())), err=True)


@contextmanager
def progress_of(activity: str, what: str = "sessions") -> Iterator[ReportProgress]:
    """Show, on a terminal, how many of them a long command has done so far; yields what reports it."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn(f"{{task.description}}: {{task.completed}} {what}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task(activity, total=None)
        yield lambda count: display.update(task, completed=count)


def _facts(session: Session, by_handle: Container[bytes]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in session_document(session, by_handle).items():
        table.add_row(name, cell(value))
    return table


def stdout() -> Console:
    """Return what tables are printed on."""
    # What is not a terminal has no width: a line of a pipe must stay one line.
    unbounded = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return _Stdout(width=_UNBOUNDED if unbounded else None)


class _Stdout(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line how it ends, where a Console would end the process with 1."""
        raise  # noqa: PLE0704 - the BrokenPipeError that this is called for


def cell(value: str | None) -> Text:
    """Return a value as tables show it, and a dash for none."""
    return Text("-", style="dim") if value is None else Text(printable(value))


def short_time(moment: datetime) -> str:
    """Return a moment as tables show it: to the second, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def iso_time(moment: datetime) -> str:
    """Return a moment as programs get it: ISO 8601, UTC, six decimals and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
