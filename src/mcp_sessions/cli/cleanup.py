"""Commands that remove what is stored: ``cleanup``, what is over, and ``clear``, every session."""

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_sessions.cli import options, output
from mcp_sessions.cli.prompts import confirm
from mcp_sessions.cli.runner import database_of, settings_of, with_manager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp_sessions.cleanup.run import Progress
    from mcp_sessions.manager import SessionManager
    from mcp_sessions.settings import Settings

app = typer.Typer(rich_markup_mode="markdown")


@app.command(epilog=options.examples("mcp-sessions cleanup", "*/10 * * * * mcp-sessions cleanup"))
def cleanup(
    *,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Run the cleanup once, now: remove expired sessions, in bounded batches. Live sessions stay.

    Audit events and records of runs that are past the retention go too, where the database's role may delete them.

    One cleanup runs at a time: one that another process is in the middle of is waited for, up to a minute.
    """
    settings = settings_of(database_url, database_schema)
    removed = _with_progress(settings, lambda manager, progress: manager.cleanup_stale_sessions(progress=progress))
    if as_json:
        output.print_json({"removed": removed})
    else:
        typer.echo(f"expired sessions removed: {removed}")


@app.command(epilog=options.examples("mcp-sessions clear --yes"))
def clear(
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="The end reason to record.")] = "cleared",
    yes: options.Yes = False,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Remove every session of every tenant, live or expired: the emergency exit. Asks first."""
    settings = settings_of(database_url, database_schema)
    confirm(f"Remove every session of every tenant from {database_of(settings)}?", yes=yes)
    removed = _with_progress(
        settings,
        lambda manager, progress: manager.clear_all_sessions(reason=reason, actor="operator", progress=progress),
    )
    if as_json:
        output.print_json({"removed": removed})
    else:
        typer.echo(f"sessions removed: {removed}")


def _with_progress(settings: "Settings", work: "Callable[[SessionManager, Progress], Awaitable[int]]") -> int:
    with output.progress_of("removing") as progress:
        return with_manager(settings, lambda manager: work(manager, progress))
