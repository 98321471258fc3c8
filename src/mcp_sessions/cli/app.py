"""The command ``mcp-sessions``, put together from its groups."""

import logging
from typing import Annotated

import typer

from mcp_sessions.cli import audit, cleanup, database, demo, options, sessions, stats
from mcp_sessions.cli.exit_codes import EXIT_CODES
from mcp_sessions.cli.runner import CommandLine
from mcp_sessions.cli.serve import command as serve

# The commands say themselves what happened; without this, warnings of the manager would say it once more.
logging.getLogger("mcp_sessions").addHandler(logging.NullHandler())

app = typer.Typer(
    name="mcp-sessions",
    cls=CommandLine,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # its tracebacks can show local variables, session ids among them
)
app.add_typer(serve.app)
app.add_typer(demo.app)
app.add_typer(sessions.app)
app.add_typer(audit.app)
app.add_typer(stats.app)
app.add_typer(cleanup.app)
app.add_typer(database.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        from mcp_sessions.cli import output

        output.print_text(f"mcp-sessions {importlib.metadata.version('mcp-sessions')}")
        raise typer.Exit


@app.callback()
def mcp_sessions(
    *,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keep the sessions of MCP servers in SQL: look at them, end them, clean up, migrate.

    Settings come from MCP_SESSIONS_* in the environment or in .env.
    """
