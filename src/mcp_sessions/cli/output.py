"""What commands print: tables for people, JSON for programs, messages apart from both."""

import errno
import json
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mcp_sessions.logs import printable
from mcp_sessions.records.sessions import OWNER_FIELDS, Session

if TYPE_CHECKING:
    from mcp_sessions.cleanup.run import Progress as ReportProgress

_TIMES = ("created_at", "last_activity_at", "expires_at")
_UNBOUNDED = 10_000
_TINY = 72
"""Columns below which tables become blocks of lines: a digest in full is that long, with its name."""
_WITH_DIGEST = 82
_MAY_BE_CUT = frozenset({"tenant", "client", "subject", "reason"})


def print_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command, in ASCII: it survives every encoding and every terminal."""
    print_text(json.dumps(document, indent=2))


def print_text(text: str, *, nl: bool = True) -> None:
    """Print what a command was asked for, as it is.

    Raises:
        OSError: there is no standard output, or it takes no more.

    """
    _require_stdout()
    typer.echo(text, nl=nl)


def _require_stdout() -> None:
    if sys.stdout is None:  # what has closed it must not take silence for an empty answer
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def session_document(session: Session, by_handle: Container[bytes] = ()) -> dict[str, str | None]:
    """Return a session as programs get it: digest in hex, owner, times in ISO 8601 and UTC; ``found_by`` a handle."""
    owner = {name: getattr(session.owner, name) for name in OWNER_FIELDS}
    facts = {"digest": session.digest.hex()} | owner | {name: iso_time(getattr(session, name)) for name in _TIMES}
    return facts | ({"found_by": "handle"} if session.digest in by_handle else {})


def print_sessions(sessions: Iterable[Session], by_handle: Container[bytes] = ()) -> None:
    """Print a table of sessions, one line each; a narrow terminal gets shorter times and names, a tiny one blocks.

    Where a session is found by a handle, a column tells how each of them is.
    """
    sessions = list(sessions)
    told = any(each.digest in by_handle for each in sessions)
    if is_tiny():
        print_blocks(session_document(each, by_handle) for each in sessions)
        return
    columns = ["session", "tenant", "client", "subject", "created (UTC)", "expires (UTC)"] + ["found by"] * told

    def row(each: Session, short: bool) -> Iterator[str | None]:
        yield from (each.short_digest, each.owner.tenant_id, each.owner.client_id, each.owner.subject)
        yield from (short_time(moment, short=short) for moment in (each.created_at, each.expires_at))
        if told:
            yield "handle" if each.digest in by_handle else "id"

    print_table(columns, lambda short: (row(each, short) for each in sessions))


def print_session(
    session: Session, by_handle: Container[bytes], sizes: Mapping[str, int], values: Mapping[str, Any]
) -> None:
    """Print all of one session, one line a fact, and one for each entry of its state."""
    entries = {name: f"{name} ({size} bytes)" for name, size in sizes.items()}
    for name, value in values.items():
        entries[name] = f"{entries.get(name, name)}: {json.dumps(value, ensure_ascii=False)}"
    _print_facts(session_document(session, by_handle), entries.values())


def say(message: str) -> None:
    """Tell the person in front of the terminal something that is not data: one line on standard error."""
    typer.echo(printable(" ".join(message.split())), err=True)


@contextmanager
def progress_of(activity: str, what: str = "sessions") -> "Iterator[ReportProgress]":
    """Show, on a terminal, how many of them a long command has done so far; yields what reports it."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn(f"{{task.description}}: {{task.completed}} {what}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task(activity, total=None)
        yield lambda count: display.update(task, completed=count)


def print_table(columns: Sequence[str], rows: Callable[[bool], Iterable[Iterable[str | None]]]) -> None:
    """Print one line a row: in full where there is room, else what ``rows`` gives for short, with names cut off."""
    console = stdout()
    in_full = _table(columns, rows(False), between=2)
    wanted = Measurement.get(console, console.options.update(width=_UNBOUNDED), in_full).maximum
    console.print(in_full if wanted <= console.width else _table(columns, rows(True), between=1))


def _table(columns: Sequence[str], rows: Iterable[Iterable[str | None]], *, between: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, between, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=name not in _MAY_BE_CUT)
    for row in rows:
        table.add_row(*(_one_line(cell(value)) for value in row))
    return table


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def is_tiny() -> bool:
    """Tell whether the terminal is too narrow for a table."""
    return stdout().width < _TINY


def print_blocks(documents: Iterable[Mapping[str, Any]]) -> None:
    """Print each document as a block, one line a fact."""
    for each in documents:
        _print_facts(each)
        stdout().print()


def _print_facts(document: Mapping[str, Any], states: Iterable[str] = ()) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = dict(document)
    console = stdout()
    if _TINY <= console.width < _WITH_DIGEST:
        console.print(f"digest  {facts.pop('digest')}")  # on a line that has the room
    for name, value in facts.items():
        table.add_row(name, cell(None if value is None else str(value)))
    for each in states:
        table.add_row("state", cell(each))
    console.print(table)


def stdout() -> Console:
    """Return what tables are printed on.

    Raises:
        OSError: there is no standard output.

    """
    _require_stdout()
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


def short_time(moment: datetime, *, short: bool = False) -> str:
    """Return a moment as tables show it, in UTC: to the second, or where room is scarce without year and seconds."""
    return f"{moment.astimezone(UTC):{'%m-%d %H:%M' if short else '%Y-%m-%d %H:%M:%S'}}"


def iso_time(moment: datetime) -> str:
    """Return a moment as programs get it: ISO 8601, UTC, six decimals and a Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
