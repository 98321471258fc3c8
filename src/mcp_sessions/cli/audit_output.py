"""How events of the audit trail are printed: a table or lines for people, JSON and CSV for programs."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable

from rich.text import Text

from mcp_sessions.cli import output
from mcp_sessions.cli.output import iso_time, print_text, short_time, stdout
from mcp_sessions.logs import printable
from mcp_sessions.records.events import SessionEvent
from mcp_sessions.records.sessions import OWNER_FIELDS, Owner

EventPrinter = Callable[[Iterable[SessionEvent]], None]

_FORMULA = re.compile(r"(^|;)(\s*[=+\-@＝＋－＠])")  # noqa: RUF001 - the wide ones are taken for the others

_COLUMNS = ("when (UTC)", "event", "session", "tenant", "client", "subject", "by", "reason")
_WIDTHS = (19, 10, 12, 0, 0, 0, 11, 0)


def event_document(event: SessionEvent) -> dict[str, str | int | float | None]:
    """Return an event as programs get it: digest in hex, owners, times in ISO 8601 and UTC."""
    claimed = event.claimed or Owner()
    return {
        "event_id": event.event_id,
        "occurred_at": iso_time(event.occurred_at),
        "kind": event.kind,
        "reason": event.reason,
        "actor": event.actor,
        "digest": event.digest.hex(),
        **{name: getattr(event.owner, name) for name in OWNER_FIELDS},
        "session_created_at": iso_time(event.session_created_at),
        "lifetime_seconds": event.lifetime_seconds,
        **{f"claimed_{name}": getattr(claimed, name) for name in OWNER_FIELDS},
    }


def print_table(events: Iterable[SessionEvent]) -> None:
    """Print a table of events, one line each: a narrow terminal gets shorter times and names, a tiny one blocks."""
    events = list(events)
    if output.is_tiny():
        output.print_blocks(
            {name: fact for name, fact in event_document(each).items() if fact is not None} for each in events
        )
        return
    output.print_table(_COLUMNS, lambda short: (_cells(each, short=short) for each in events))


def print_lines(events: Iterable[SessionEvent]) -> None:
    """Print events whose neighbours are not known yet: a line each."""
    console = stdout()
    for each in events:
        shown = [printable(value or "-").ljust(width) for value, width in zip(_cells(each), _WIDTHS, strict=True)]
        console.print(Text("  ".join(shown)))


def print_json_lines(events: Iterable[SessionEvent]) -> None:
    """Print events as JSON, a line each."""
    for each in events:
        print_text(json.dumps(event_document(each)))


class CsvPrinter:
    """Prints events as CSV, below one line of names; control characters as escapes, so that an event is one line.

    Spreadsheets run a cell that begins like a formula, and whoever chooses the name of a client or a subject could
    begin one: such text gets an apostrophe in front, also behind a semicolon, which separates cells in many countries.

    Source: OWASP, CSV Injection.
    """

    def __init__(self) -> None:
        self._named = False

    def __call__(self, events: Iterable[SessionEvent]) -> None:
        """Print these events."""
        for document in map(event_document, events):
            if not self._named:
                self._print(document)
                self._named = True
            self._print(map(_csv_cell, document.values()))

    @staticmethod
    def _print(values: Iterable[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        print_text(line.getvalue(), nl=False)


def _csv_cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return _FORMULA.sub(r"\1'\2", printable(value))
    return "" if value is None else str(value)


def _cells(event: SessionEvent, *, short: bool = False) -> tuple[str | None, ...]:
    owner = event.owner
    return (
        short_time(event.occurred_at, short=short),
        event.kind,
        event.short_digest,
        owner.tenant_id,
        owner.client_id,
        owner.subject,
        event.actor,
        event.reason if event.claimed is None else f"{event.reason}: {_named(event.claimed)}",
    )


def _named(owner: Owner) -> str:
    parts = {name: getattr(owner, name) for name in OWNER_FIELDS}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None) or "anonymous"
