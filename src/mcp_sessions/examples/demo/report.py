"""What the demo prints: one line a step, as it happens, and the session's life from SQL at the end."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.console import Console
from rich.table import Table

from mcp_sessions.records.events import SessionEvent
from mcp_sessions.records.sessions import Session


class Report:
    """Prints to standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print what a block is about to show, ticked when it has shown it, and crossed where it fails."""
        began, mark = time.monotonic(), "[red]✗[/red]"
        try:
            with self._console.status(text):
                yield
            mark = "[green]✓[/green]"
        finally:
            self._console.print(f"{mark} {text} [dim]{time.monotonic() - began:.1f} s[/dim]", soft_wrap=True)

    def life(self, moments: dict[str, Session | None]) -> None:
        """Print what the database had about a session at several moments."""
        table = _table("The session, as SQL had it (UTC):", "after", "session", "created", "last activity", "expires")
        for moment, session in moments.items():
            if session is None:
                table.add_row(moment, "no row")
            else:
                times = (session.created_at, session.last_activity_at, session.expires_at)
                table.add_row(moment, session.short_digest, *map(_clock, times))
        self._print(table)

    def trail(self, events: Iterable[SessionEvent]) -> None:
        """Print what the audit trail has."""
        title = "The audit trail, from session_events (UTC):"
        table = _table(title, "when", "session", "event", "reason", "by", "lived")
        for event in events:
            lived = "" if event.lifetime_seconds is None else f"{event.lifetime_seconds:.3f} s"
            table.add_row(_clock(event.occurred_at), event.short_digest, event.kind, event.reason, event.actor, lived)
        self._print(table)

    def _print(self, table: Table) -> None:
        self._console.print()
        self._console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left", title=title)
    for column in columns:
        table.add_column(column)
    return table


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S.%f}"[:-3]
