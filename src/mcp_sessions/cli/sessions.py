"""Commands on sessions: ``list``, ``show``, ``count`` and ``terminate``."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import typer

from mcp_sessions.cli import options, output
from mcp_sessions.cli.exit_codes import NoSuchSessionError
from mcp_sessions.cli.prompts import confirm, session_id_from_stdin
from mcp_sessions.cli.runner import database_of, settings_of, with_manager
from mcp_sessions.digests import digest_of, is_digest_prefix
from mcp_sessions.errors import DatabaseError, InvalidInputError, SessionEndedError
from mcp_sessions.records.sessions import Session, SessionPage
from mcp_sessions.validation import LARGEST_PAGE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp_sessions.manager import SessionManager

Finder: TypeAlias = "Callable[[SessionManager], Awaitable[Session]]"

app = typer.Typer(rich_markup_mode="markdown")

_MATCHES_SHOWN = 5


@app.command(
    "list", epilog=options.examples("mcp-sessions list --tenant acme --limit 20", "mcp-sessions list --all --json")
)
def list_sessions(
    *,
    tenant: options.Tenant = None,
    client: options.Client = None,
    subject: options.Subject = None,
    limit: Annotated[int, typer.Option(metavar="N", help=f"Sessions per page, 1 to {LARGEST_PAGE}.")] = 100,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on behind the page that named it.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print every page, not just one.")] = False,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """List live sessions, newest first."""

    async def pages(manager: "SessionManager") -> tuple[SessionPage, frozenset[bytes]]:
        async def page_behind(cursor: str | None) -> SessionPage:
            return await manager.list_sessions(
                tenant_id=tenant, client_id=client, subject=subject, limit=limit, cursor=cursor
            )

        page = await page_behind(cursor)
        sessions = [*page]
        while every and page.next_cursor is not None:
            page = await page_behind(page.next_cursor)
            sessions += page
        return SessionPage(tuple(sessions), page.next_cursor), await manager.found_by_handle(sessions)

    listed, by_handle = with_manager(settings_of(database_url, database_schema), pages)
    if as_json:
        sessions = [output.session_document(each, by_handle) for each in listed]
        output.print_json({"sessions": sessions, "next_cursor": listed.next_cursor})
        return
    if listed.sessions:
        output.print_sessions(listed, by_handle)
    else:
        output.say("no live sessions")
    if listed.next_cursor is not None:
        output.say(f"there are more: add --cursor {listed.next_cursor}, or --all")


@app.command(
    epilog=options.examples(
        "mcp-sessions show 3f2a9c", "mcp-sessions show 3f2a9c --values", "mcp-sessions show < file-with-the-session-id"
    )
)
def show(
    digest: options.SessionDigest = None,
    *,
    values: Annotated[
        bool, typer.Option("--values", help="Show the values of its state, too; the audit trail records that.")
    ] = False,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Show one live session: by its digest, or by its id on standard input.

    What its state holds is shown by names and sizes; its values only with `--values`, which leaves an event.
    """
    shown = with_manager(
        settings_of(database_url, database_schema), partial(_shown, find=_finder_of(digest), with_values=values)
    )
    if as_json:
        document: dict[str, Any] = output.session_document(shown.session, shown.by_handle)
        output.print_json(
            document
            | ({"state": shown.sizes} if shown.sizes else {})
            | ({} if shown.values is None else {"values": shown.values})
        )
    else:
        output.print_session(shown.session, shown.by_handle, shown.sizes, shown.values or {})


@app.command(epilog=options.examples("mcp-sessions count --tenant acme"))
def count(
    *,
    tenant: options.Tenant = None,
    client: options.Client = None,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Count live sessions. An expired session does not count, swept or not."""
    number = with_manager(
        settings_of(database_url, database_schema),
        lambda manager: manager.get_active_session_count(tenant_id=tenant, client_id=client),
    )
    if as_json:
        output.print_json({"count": number})
    else:
        output.print_text(str(number))


@app.command(
    epilog=options.examples(
        "mcp-sessions terminate 3f2a9c",
        "mcp-sessions terminate < file-with-the-session-id",
        "mcp-sessions terminate --tenant acme --reason offboarded",
    )
)
def terminate(
    digest: options.SessionDigest = None,
    *,
    tenant: options.Tenant = None,
    client: options.Client = None,
    subject: options.Subject = None,
    issuer: options.Issuer = None,
    reason: options.Reason = None,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """End one live session, or, with filters, every live session of a tenant, a client or a user.

    One session is named by its digest, or by its id on standard input. Filters ask for a confirmation first. No
    worker serves an ended session again.
    """
    settings = settings_of(database_url, database_schema)
    filters = {"tenant": tenant, "client": client, "subject": subject, "issuer": issuer}
    named = [f"{name} {value}" for name, value in filters.items() if value is not None]
    if not named:
        find = _finder_of(digest)
        ended = with_manager(
            settings, partial(_terminate_one, find=find, reason="terminated" if reason is None else reason)
        )
        number, message = 1, f"session ended: {ended.short_digest}"
    elif digest is None:
        confirm(f"End every live session of {', '.join(named)} in {database_of(settings)}?", yes=yes)
        with output.progress_of("ending") as progress:
            number = with_manager(
                settings,
                lambda manager: manager.terminate_sessions(
                    tenant_id=tenant,
                    client_id=client,
                    subject=subject,
                    issuer=issuer,
                    reason="revoked" if reason is None else reason,
                    actor="operator",
                    progress=progress,
                ),
            )
        message = f"sessions ended: {number}"
    else:
        raise InvalidInputError("name one session, or the filters of many, but not both")
    if as_json:
        output.print_json({"terminated": number})
    else:
        typer.echo(message)


async def _sizes(manager: "SessionManager", session: Session) -> dict[str, int]:
    """Return the sizes of a session's state by name; none to an auditor, whose role may not read any state."""
    from mcp_sessions.db.faults import is_forbidden

    try:
        return dict(sorted((await manager.state(session).sizes()).items()))
    except DatabaseError as fault:
        if is_forbidden(fault.__cause__):
            return {}
        raise


class _Shown(NamedTuple):
    """A session, and what its state holds; ``values`` is None where nobody asked for them."""

    session: Session
    by_handle: frozenset[bytes]
    sizes: dict[str, int]
    values: dict[str, Any] | None


async def _shown(manager: "SessionManager", *, find: Finder, with_values: bool) -> _Shown:
    session = await find(manager)
    by_handle = await manager.found_by_handle([session])
    try:
        values = await manager.show_state(session) if with_values else None
        return _Shown(session, by_handle, await _sizes(manager, session), values)
    except SessionEndedError:
        raise _ended_just_now() from None


def _ended_just_now() -> NoSuchSessionError:
    return NoSuchSessionError("the session ended just now, by itself or by another hand")


async def _terminate_one(manager: "SessionManager", *, find: Finder, reason: str) -> Session:
    session = await find(manager)
    if not await manager.terminate_digest(session.digest, reason=reason, actor="operator"):
        raise _ended_just_now()
    return session


def _finder_of(argument: str | None) -> Finder:
    """Return what finds the session that the argument, or standard input in its stead, names."""
    if argument is None or argument == "-":
        return partial(_session_with_id, session_id=session_id_from_stdin())
    if not is_digest_prefix(argument):
        raise InvalidInputError(
            "the argument is no digest, which has 1 to 64 hex digits. If it is a session id, keep it out of the "
            "command line and pipe it in: mcp-sessions ... < file-with-the-session-id"
        )
    return partial(_session_with_digest, prefix=argument)


async def _session_with_id(manager: "SessionManager", *, session_id: str) -> Session:
    if not (found := await manager.find_sessions(digest_of(session_id).hex(), limit=1)):
        raise NoSuchSessionError("no live session has this id")
    return found[0]


async def _session_with_digest(manager: "SessionManager", *, prefix: str) -> Session:
    found = await manager.find_sessions(prefix, limit=_MATCHES_SHOWN + 1)
    if not found:
        # Not repeating the argument: a session id can look like a digest.
        raise NoSuchSessionError("no live session has a digest that begins like this")
    if len(found) > 1:
        shown = [each.short_digest for each in found[:_MATCHES_SHOWN]] + ["..."] * (len(found) > _MATCHES_SHOWN)
        raise InvalidInputError(f"several live sessions have a digest that begins like this: {', '.join(shown)}")
    return found[0]
