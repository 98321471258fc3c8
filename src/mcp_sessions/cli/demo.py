"""The command ``demo``."""

from typing import Annotated

import typer

from mcp_sessions.cli import options
from mcp_sessions.cli.serve.command import EXAMPLE_MODULE, require

app = typer.Typer(rich_markup_mode="markdown")


@app.command(epilog=options.examples("mcp-sessions demo", "mcp-sessions demo --database-url postgresql://app@db/app"))
def demo(
    *,
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where to keep the sessions, migrated before; by default in a temporary SQLite file.",
            rich_help_panel="Database",
        ),
    ] = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Show that sessions outlive their workers: open one, kill both workers, start them again, go on.

    It takes a few seconds, and removes what it makes. The exit code is 1 if a step fails.
    """
    require("uvicorn", EXAMPLE_MODULE)
    from mcp_sessions.examples.demo.run import run  # it needs what require() looked for

    run(database_url, database_schema)
