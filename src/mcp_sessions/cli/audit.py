"""The command on the audit trail: ``audit``."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mcp_sessions.cli import audit_output, options, output
from mcp_sessions.cli.prompts import session_id_from_stdin
from mcp_sessions.cli.runner import settings_of, with_manager
from mcp_sessions.digests import digest_of, is_digest_prefix
from mcp_sessions.durations import duration_of
from mcp_sessions.errors import DatabaseUnavailableError, InvalidInputError
from mcp_sessions.records.events import EVENT_KINDS, EventFilter, EventKind
from mcp_sessions.validation import LARGEST_PAGE, checked_limit

if TYPE_CHECKING:
    from mcp_sessions.manager import SessionManager

app = typer.Typer(rich_markup_mode="markdown")

_WHEN = "How long ago (90s, 30m, 24h, 7d), or a moment in ISO 8601, in UTC unless it names its zone."


@app.command(
    epilog=options.examples(
        "mcp-sessions audit --tenant acme --since 24h",
        "mcp-sessions audit --kind refused --kind deleted --json",
        "mcp-sessions audit --follow",
    )
)
def audit(
    *,
    tenant: options.Tenant = None,
    client: options.Client = None,
    subject: options.Subject = None,
    issuer: options.Issuer = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help=f"Only events of this kind; may be repeated: {', '.join(EVENT_KINDS)}.",
            autocompletion=lambda: list(EVENT_KINDS),
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help=f"Only events from then on. {_WHEN}")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Only events before then.")] = None,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST",
            help="Only events of the session whose digest begins like this; '-' reads a session id from standard "
            "input.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help=f"Events per page, 1 to {LARGEST_PAGE}.")] = 100,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on behind the page that named it.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print the last events, oldest first, then new ones as they come.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; with --follow, one a line for each event.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a line of names.")] = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Show what happened to sessions, newest first: opened, ended and why, uses by others refused."""
    if as_json and as_csv:
        raise InvalidInputError("choose one of --json and --csv")
    if follow and (cursor is not None or until is not None):
        raise InvalidInputError("--follow goes on with new events: leave out --cursor and --until")
    settings = settings_of(database_url, database_schema)
    wanted = EventFilter(
        tenant_id=tenant,
        client_id=client,
        issuer=issuer,
        subject=subject,
        kinds=cast("tuple[EventKind, ...]", tuple(kind or ())),  # which the filter checks
        since=_moment("--since", since),
        until=_moment("--until", until),
        digest_prefix=_digest_of(session),
    )
    checked_limit(limit)
    if follow:
        printer = (
            audit_output.print_json_lines
            if as_json
            else audit_output.CsvPrinter()
            if as_csv
            else audit_output.print_lines
        )
        with_manager(settings, lambda manager: _follow(manager, wanted, limit, printer))
        return
    page = with_manager(settings, lambda manager: manager.list_events(wanted, limit=limit, cursor=cursor))
    if as_json:
        shown = [audit_output.event_document(each) for each in page]
        output.print_json({"events": shown, "next_cursor": page.next_cursor})
        return
    if page.events:
        (audit_output.CsvPrinter() if as_csv else audit_output.print_table)(page)
    else:
        output.say("no such events")
    if page.next_cursor is not None:
        output.say(f"there are more: add --cursor {page.next_cursor}")


async def _follow(
    manager: "SessionManager", wanted: EventFilter, last: int, printer: audit_output.EventPrinter
) -> None:
    async for batch in manager.follow_events(wanted, last=last, outage=_tell_of_outage):
        printer(batch)


def _tell_of_outage(fault: DatabaseUnavailableError | None) -> None:
    output.say("the database is back" if fault is None else f"{fault}; waiting for it to come back")


def _moment(option: str, given: str | None) -> datetime | timedelta | None:
    if given is None:
        return None
    if (ago := duration_of(given, unit_required=True)) is not None:  # a bare number may be a date, or half of one
        return ago
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidInputError(
            f"{option} must be a duration such as 90s, 30m, 24h or 7d, or a moment such as 2026-03-01 or "
            "2026-03-01T12:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _digest_of(session: str | None) -> str | None:
    if session == "-":
        return digest_of(session_id_from_stdin()).hex()
    if session is not None and not is_digest_prefix(session):
        raise InvalidInputError(
            "--session is no digest, which has 1 to 64 hex digits. If it is a session id, keep it out of the command "
            "line and pipe it in: mcp-sessions audit --session - < file-with-the-session-id"
        )
    return session
