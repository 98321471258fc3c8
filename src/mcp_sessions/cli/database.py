"""Commands on the database itself: ``db upgrade``, ``db downgrade``, ``db current`` and the like."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from mcp_sessions.cli import options, output
from mcp_sessions.cli.exit_codes import ExitCode
from mcp_sessions.cli.prompts import confirm
from mcp_sessions.cli.runner import database_of, settings_of, with_manager
from mcp_sessions.durations import duration_of
from mcp_sessions.errors import ConfigurationError, DatabaseError, SchemaRevisionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp_sessions.settings import Settings

_SHORTEST_PATIENCE = timedelta(milliseconds=1)

app = typer.Typer(name="db", no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def database() -> None:
    """Create, migrate and check the tables."""


@app.command(epilog=options.examples("mcp-sessions db upgrade", "mcp-sessions db upgrade --sql > upgrade.sql"))
def upgrade(
    revision: Annotated[str, typer.Argument(metavar="[REVISION]", help="How far up.")] = "head",
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL from an empty database on; run nothing.")] = False,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Create the tables, or migrate them up. A SQLite file is created; of several upgrades at once, one migrates."""
    from mcp_sessions.db.schema import revisions as schema

    settings = settings_of(database_url, database_schema)
    if sql:
        output.print_text(asyncio.run(schema.upgrade_sql(settings, revision)), nl=False)
    else:
        _migrate(settings, revision, schema.upgrade, as_json=as_json)


def _not_an_option(value: str) -> str:
    if value.startswith("-") and not value[1:].isdecimal():
        raise typer.BadParameter(f"there is no option {value}; steps down are written like -1")
    return value


@app.command(
    epilog=options.examples("mcp-sessions db downgrade 0002", "mcp-sessions db downgrade -1"),
    context_settings={"ignore_unknown_options": True},  # or -1 would be one
)
def downgrade(
    revision: Annotated[
        str,
        typer.Argument(
            callback=_not_an_option,
            help="How far down: a revision, or steps like -1; 'base' removes the tables, sessions and all.",
        ),
    ],
    *,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Migrate the tables down, before an older version is installed. Asks first: it can lose data."""
    from mcp_sessions.db.schema import revisions as schema

    settings = settings_of(database_url, database_schema)
    lost = "every session is lost" if revision == "base" else "what later revisions store may be lost"
    confirm(f"Downgrade {database_of(settings)} to {revision}: {lost}. Go on?", yes=yes)
    _migrate(settings, revision, schema.downgrade, as_json=as_json)


@app.command(epilog=options.examples("mcp-sessions db current || mcp-sessions db upgrade"))
def current(
    *,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Print the schema revision of the database; exit code 4 where it is not the one needed."""
    from mcp_sessions.db.schema import revisions as schema

    settings = settings_of(database_url, database_schema)
    found = asyncio.run(schema.current_revision(settings))
    needed = schema.head_revision()
    if (missing := schema.missing_file(settings)) is not None:
        output.say(missing)
    if as_json:
        output.print_json({"revision": found, "needed": needed, "up_to_date": found == needed})
    else:
        output.print_text(f"{found or 'none'}, needed: {needed}")
    if found != needed:
        raise typer.Exit(ExitCode.SCHEMA)


@app.command(epilog=options.examples("mcp-sessions db check --json"))
def check(
    *,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Check that the database can be reached, is at the revision needed, and has its tables, triggers and views."""
    from mcp_sessions.db.schema import revisions as schema

    settings = settings_of(database_url, database_schema)
    asyncio.run(schema.check_differences(settings))
    if as_json:
        output.print_json({"ok": True, "revision": schema.head_revision()})
    else:
        typer.echo(f"ok: {database_of(settings)} is at {schema.head_revision()}, and its tables match")


def _patience(value: str) -> str:
    if (duration := duration_of(value, unit_required=False)) is None or duration < _SHORTEST_PATIENCE:
        raise typer.BadParameter(f"{value!r} is no time such as 2s or 0.5s")
    return value


@app.command(
    epilog=options.examples("mcp-sessions db ping --json", "until mcp-sessions db ping --timeout 2s; do sleep 1; done")
)
def ping(
    *,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", callback=_patience, help="How long to wait for its answer.")
    ] = "5s",
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Ask the database whether a server could start on it: it answers in time, and is at the revision needed.

    Exit code 3 where it does not answer, 4 where it is at another revision.
    """
    from mcp_sessions.db.schema import revisions as schema
    from mcp_sessions.db.schema.ping import ping as database_ping

    settings = settings_of(database_url, database_schema)
    patience = duration_of(timeout, unit_required=False) or timedelta()
    try:
        took = asyncio.run(database_ping(settings, patience))
    except (DatabaseError, SchemaRevisionError) as error:
        if as_json:
            failed = "schema revision" if isinstance(error, SchemaRevisionError) else "database"
            output.print_json({"ok": False, "failed": failed})
        raise
    if as_json:
        output.print_json({"ok": True, "revision": schema.head_revision(), "seconds": round(took.total_seconds(), 6)})
    else:
        typer.echo(f"ok: {database_of(settings)} answered in {took.total_seconds() * 1000:.0f} ms")


@app.command(
    epilog=options.examples(
        "mcp-sessions db roles > roles.sql",
        "mcp-sessions db roles --apply",
        "mcp-sessions db roles --auditor acme_auditor --tenant acme --apply",
    )
)
def roles(
    *,
    prefix: Annotated[str, typer.Option(metavar="NAME", help="What the roles' names begin with.")] = "mcp_sessions",
    auditor: Annotated[str | None, typer.Option(metavar="ROLE", help="Make this auditor of one --tenant, too.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="ID", help="The tenant that the --auditor may see.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Run the SQL instead of printing it. Asks first.")] = False,
    yes: options.Yes = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Print the SQL that makes Postgres roles for the application, the cleaner and the auditor, or run it.

    The roles have no login of their own: grant them to those who have. Run it as the owner of the tables; running it
    again changes nothing, and is what sets the rights on views that a migration made anew.
    """
    from mcp_sessions.db import roles as database_roles

    settings = settings_of(database_url, database_schema)
    if (auditor is None) != (tenant is None):
        raise ConfigurationError("an auditor of one tenant takes both --auditor and --tenant")
    names = ", ".join(database_roles.role_names(prefix))
    if auditor is None or tenant is None:
        statements = database_roles.roles_sql(settings, prefix)
    else:
        names += f", {auditor}"
        statements = database_roles.tenant_auditor_sql(settings, auditor, tenant, prefix)
    if not apply:
        output.print_text(database_roles.as_script(statements), nl=False)
        return
    confirm(f"Make the roles {names} on {database_of(settings)}, and set their rights?", yes=yes)
    asyncio.run(database_roles.apply(settings, statements))
    typer.echo(f"roles are set: {names}")


@app.command(epilog=options.examples("mcp-sessions db reencrypt"))
def reencrypt(
    *,
    as_json: options.AsJson = False,
    database_url: options.DatabaseUrl = None,
    database_schema: options.DatabaseSchema = None,
) -> None:
    """Seal all that is stored with the first of the encryption keys, what was stored before there were keys as well.

    It goes through in bounded batches, and may be run again where it was stopped. Afterwards no other key is needed.
    """
    settings = settings_of(database_url, database_schema)
    with output.progress_of("sealing", "texts") as told:
        count = with_manager(settings, lambda manager: manager.reencrypt(progress=told))
    if as_json:
        output.print_json({"sealed": count})
    else:
        typer.echo(f"texts sealed anew: {count}")


Migration: TypeAlias = "Callable[[Settings, str], Awaitable[None]]"


def _migrate(settings: "Settings", revision: str, migration: Migration, *, as_json: bool) -> None:
    before, after = asyncio.run(_revisions_around(settings, revision, migration))
    if as_json:
        output.print_json({"before": before, "after": after})
    elif before == after:
        typer.echo(f"at {after or 'none'} already")
    else:
        typer.echo(f"migrated from {before or 'none'} to {after or 'none'}")


async def _revisions_around(settings: "Settings", revision: str, migration: Migration) -> tuple[str | None, str | None]:
    from mcp_sessions.db.schema import revisions as schema

    before = await schema.current_revision(settings)
    await migration(settings, revision)
    return before, await schema.current_revision(settings)
