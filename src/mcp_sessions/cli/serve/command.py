"""The command ``serve``: an app, or the example server, with durable sessions."""

import importlib
from enum import StrEnum
from typing import Annotated

import typer

from mcp_sessions.cli import options
from mcp_sessions.cli.exit_codes import ExitCode
from mcp_sessions.cli.serve.metrics import metrics_of
from mcp_sessions.errors import ConfigurationError

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLE_MODULE = "mcp_sessions.examples.server"
EXAMPLE = f"{EXAMPLE_MODULE}:server"


_SESSIONS, _OPERATION = "Sessions", "Operation"  # panels: each has columns as wide as its own names


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """What a line of the log is: a sentence, or a JSON document for what collects logs."""

    TEXT = "text"
    JSON = "json"


@app.command(
    epilog=options.examples(
        "mcp-sessions serve",
        "mcp-sessions serve notes:server --workers 4 --port 8080",
        "mcp-sessions serve notes:make_app --idle-timeout 8h --tenant-claim org_id",
    )
)
def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="[MODULE:NAME]",
            show_default=False,
            help="What to serve: an ASGI app, a function that makes one, an MCPServer or a FastMCP; by default an "
            "example server.",
        ),
    ] = EXAMPLE,
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="How many processes serve.")] = 1,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="For development: start anew when a Python file below this folder changes."),
    ] = False,
    path: Annotated[
        str | None, typer.Option(metavar="PATH", help="The path of the MCP endpoint.", rich_help_panel=_SESSIONS)
    ] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End sessions after that long without activity, like 45m or 8h.",
            rich_help_panel=_SESSIONS,
        ),
    ] = None,
    absolute_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="End sessions at that age, whatever their activity.", rich_help_panel=_SESSIONS
        ),
    ] = None,
    tenant_claim: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The claim of a verified token that names the tenant.", rich_help_panel=_SESSIONS
        ),
    ] = None,
    drain_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long requests in flight may take at the end; by default 10s.",
            rich_help_panel=_OPERATION,
        ),
    ] = None,
    health: Annotated[
        bool | None,
        typer.Option(
            show_default=False,
            rich_help_panel=_OPERATION,
            help="Whether to answer /healthz and /readyz; by default where the app shows that it has no such routes.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="PORT",
            show_default=False,
            rich_help_panel=_OPERATION,
            help="Answer Prometheus at /metrics on this port, or ADDRESS:PORT; more workers on the next ones.",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel,
        typer.Option(metavar="LEVEL", help=f"How much to log: {', '.join(LogLevel)}.", rich_help_panel=_OPERATION),
    ] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            metavar="FORM", help="Lines of text, or of JSON for what collects logs.", rich_help_panel=_OPERATION
        ),
    ] = LogFormat.TEXT,
    access_log: Annotated[bool, typer.Option(help="Whether to log every request.", rich_help_panel=_OPERATION)] = True,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Serve an MCP server with durable sessions, over streamable HTTP. Ctrl-C drains it.

    A SQLite database is created and migrated; on Postgres, run `mcp-sessions db upgrade` first.
    """
    if reload and workers > 1:
        raise ConfigurationError("--reload is for development, with one worker: leave out --workers")
    require("uvicorn", "pythonjsonlogger", *([EXAMPLE_MODULE] if target == EXAMPLE else []))
    if metrics is not None:
        require("opentelemetry.exporter.prometheus", extra="telemetry")
    from mcp_sessions.cli.serve.server import Serving  # these two need uvicorn, which is an extra
    from mcp_sessions.cli.serve.startup import start

    given = {
        "database_url": database_url,
        "database_schema": database_schema,
        "idle_timeout": idle_timeout,
        "absolute_timeout": absolute_timeout,
        "path": path,
        "tenant_claim": tenant_claim,
        "drain_timeout": drain_timeout,
        "drain_on_signal": "true",
        "telemetry": None if metrics is None else "true",
        "health": None if health is None else str(health).lower(),
    }
    how = Serving(
        workers,
        log_level,
        access_log,
        None if metrics is None else metrics_of(metrics, workers),
        in_json=log_format is LogFormat.JSON,
        reload=reload,
    )
    if not start(target, given, host=host, port=port, how=how):
        raise typer.Exit(ExitCode.FAILED)


def require(*modules: str, extra: str = "serve") -> None:
    """Make sure that what only serving needs is installed.

    Raises:
        ConfigurationError: it is not; the message says how to install it.
    """
    try:
        for module in modules:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"serving needs {error.name}, which is not installed: pip install 'mcp-sessions[{extra}]'"
        ) from None
