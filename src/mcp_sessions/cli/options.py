"""The options that several commands share, each described once."""

from typing import Annotated

import typer


def _or_in_front(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Let an option stand before the command as well as after it; after it wins."""
    given: str | None = context.find_root().params.get(parameter.name) if value is None else value
    return given


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        callback=_or_in_front,
        metavar="URL",
        help="sqlite:///file.db or postgresql://user@host/database; by default MCP_SESSIONS_DATABASE_URL, the right "
        "place for a password, else sqlite:///mcp-sessions.db.",
        rich_help_panel="Database",
    ),
]
DatabaseSchema = Annotated[
    str | None,
    typer.Option(
        callback=_or_in_front,
        metavar="NAME",
        help="The Postgres schema that holds the tables; by default MCP_SESSIONS_DATABASE_SCHEMA.",
        rich_help_panel="Database",
    ),
]
Tenant = Annotated[str | None, typer.Option(metavar="ID", help="Only sessions of this tenant.")]
Client = Annotated[str | None, typer.Option(metavar="ID", help="Only sessions of this client.")]
Subject = Annotated[str | None, typer.Option(metavar="SUB", help="Only sessions of this subject, the user.")]
Issuer = Annotated[str | None, typer.Option(metavar="ISS", help="Only sessions whose tokens came from this issuer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")]
Reason = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        show_default=False,
        autocompletion=lambda: ["terminated", "revoked"],
        help="The end reason to record; by default 'terminated' for one session, 'revoked' for many.",
    ),
]
SessionDigest = Annotated[
    str | None,
    typer.Argument(
        metavar="DIGEST",
        show_default=False,
        help="The digest of a session, or an unambiguous beginning of it. Without it, or with '-', a session id is "
        "read from standard input.",
    ),
]


def examples(*lines: str) -> str:
    """Return what stands below the help of a command: lines to copy."""
    return "\n".join(["Examples:\n", *(f"- `{line}`" for line in lines)])
