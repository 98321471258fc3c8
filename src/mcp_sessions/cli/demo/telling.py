"""What the demo prints: one line a step, as it happens, and the session's life at the end."""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime

from rich.console import Console
from rich.table import Table

from mcp_sessions.model import Session


class Teller:
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
        table = Table(box=None, pad_edge=False, title_justify="left", title="The session, as SQL had it (UTC):")
        for name in ("after", "session", "created", "last activity", "expires"):
            table.add_column(name)
        for moment, session in moments.items():
            if session is None:
                table.add_row(moment, "no row")
            else:
                times = (session.created_at, session.last_activity_at, session.expires_at)
                table.add_row(moment, session.short_digest, *map(_clock, times))
        self._console.print()
        self._console.print(table)


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S.%f}"[:-3]
