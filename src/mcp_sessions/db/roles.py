"""Roles on Postgres: who may do what with the tables and the audit trail, as SQL that can be run again and again.

None has a login; they are granted to those who have one. The application records events and can neither change nor
delete them; the cleaner, an application too, may delete what the retention is over for; the auditor reads the views,
and has no right on any table. The fourth role owns the views: they read the tables by its rights, and unlike the
tables' owner it is subject to row-level security. So policies say what a view shows to whom, for in a policy the
current user is whoever asks, and an auditor may be given the rows of one tenant alone. What no policy shows is hidden.

Whoever has a right on a table itself sees every row of it, as without policies.
"""

from collections.abc import Sequence

from mcp_sessions.db.auditor_views import EVERY_TENANT_VIEW, READING_VIEWS
from mcp_sessions.db.engines import migration_engine
from mcp_sessions.db.faults import reported
from mcp_sessions.db.schema.revisions import require_revision
from mcp_sessions.db.tables import VERSION_TABLE
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.settings import Settings

VIEWS = ("active_sessions", "session_history", "tenant_activity")
"""Those for people; commands have their own."""

_EVERY_VIEW = (*VIEWS, *READING_VIEWS, EVERY_TENANT_VIEW)
_BEHIND_VIEWS = ("sessions", "session_events")
_READ_BY_VIEWS = (*_BEHIND_VIEWS, "cleanup_runs", VERSION_TABLE)
_OF_APPLICATIONS = {
    "sessions": "SELECT, INSERT, UPDATE, DELETE",
    "session_handshakes": "SELECT, INSERT, UPDATE, DELETE",
    "client_settings": "SELECT, INSERT, UPDATE, DELETE",
    "session_state": "SELECT, INSERT, UPDATE, DELETE",
    "key_values": "SELECT, INSERT, UPDATE, DELETE",
    "session_events": "SELECT, INSERT",
    "cleanup_runs": "SELECT, INSERT, UPDATE",
    "workers": "SELECT, INSERT, UPDATE, DELETE",
    "messages": "SELECT, INSERT, UPDATE, DELETE",
    VERSION_TABLE: "SELECT",
}
_SEQUENCES = ("session_events_event_id_seq", "messages_message_id_seq")
_RECORDER = "session_events_record"
"""The function behind the triggers, with the rights of the tables' owner: for no other triggers than ours."""

_OF_CLEANERS = {"session_events": "SELECT, DELETE", "cleanup_runs": "SELECT, DELETE"}
_LONGEST_NAME = 63
_LOCK_TIMEOUT = "5s"
"""How long to wait for a table in use: whoever comes later waits behind this, so better give up, to be run again."""


def role_names(prefix: str) -> tuple[str, str, str, str]:
    """Return the names of the roles: application, cleaner, auditor, and the one that owns the views."""
    return f"{prefix}_application", f"{prefix}_cleaner", f"{prefix}_auditor", f"{prefix}_views"


def roles_sql(settings: Settings, prefix: str) -> list[str]:
    """Return the statements that make the roles, give them their rights and policies, and take any other rights away.

    Raises:
        ConfigurationError: the database is not Postgres, or cannot have roles of these names.
    """
    place = _place_of(settings)
    roles = application, cleaner, auditor, views = tuple(map(_role, role_names(prefix)))
    sequences = ", ".join(f"{place}{_quoted(name)}" for name in _SEQUENCES)
    tables = ", ".join(f"{place}{_quoted(name)}" for name in _OF_APPLICATIONS)
    return [
        f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'",
        "SET LOCAL client_min_messages = warning",  # nobody need know of what exists already
        *map(_creation_of, roles),
        *_views_given_to(views, place),
        *(f"REVOKE ALL ON {tables} FROM {role}" for role in roles),
        *(f"REVOKE ALL ON {_all_views(place)} FROM {role}" for role in (application, cleaner, auditor)),
        f"REVOKE ALL ON FUNCTION {place}{_quoted(_RECORDER)}() FROM PUBLIC, {', '.join(roles)}",
        *(_on_schema(place, "GRANT USAGE", f"TO {role}") for role in roles),
        *(f"GRANT {rights} ON {place}{_quoted(table)} TO {application}" for table, rights in _OF_APPLICATIONS.items()),
        f"GRANT USAGE ON SEQUENCE {sequences} TO {application}",
        f"GRANT {application} TO {cleaner}",
        *(f"GRANT {rights} ON {place}{_quoted(table)} TO {cleaner}" for table, rights in _OF_CLEANERS.items()),
        *(f"GRANT SELECT ON {place}{_quoted(table)} TO {views}" for table in _READ_BY_VIEWS),
        f"GRANT SELECT ON {_all_views(place)} TO {auditor}",
        *(each for table in _BEHIND_VIEWS for each in _policies_on(f"{place}{_quoted(table)}", prefix)),
    ]


def tenant_auditor_sql(settings: Settings, name: str, tenant_id: str, prefix: str) -> list[str]:
    """Return the statements that make a role that sees one tenant in the views, on top of those of ``roles_sql``.

    Raises:
        ConfigurationError: the database is not Postgres, or cannot have a role of this name.
    """
    place, role = _place_of(settings), _role(name)
    if name in (*role_names(prefix), _policy_by_right(prefix)):
        raise ConfigurationError(f"{name} is the name of another role: give the auditor one of its own")
    tables = ", ".join(f"{place}{_quoted(table)}" for table in _OF_APPLICATIONS)
    views = _role(role_names(prefix)[-1])
    return [
        *roles_sql(settings, prefix),
        _creation_of(role),
        f"REVOKE ALL ON {tables}, {_all_views(place)} FROM {role}",
        *(
            statement
            for table in _BEHIND_VIEWS
            for statement in _policy(
                name,
                f"{place}{_quoted(table)}",
                f"FOR SELECT TO {views} USING (tenant_id = {_literal(tenant_id)} AND {_asked_by(role)})",
            )
        ),
        _on_schema(place, "GRANT USAGE", f"TO {role}"),
        f"GRANT SELECT ON {_all_views(place)} TO {role}",
        f"REVOKE ALL ON {place}{_quoted(EVERY_TENANT_VIEW)} FROM {role}",
    ]


def as_script(statements: Sequence[str]) -> str:
    """Return the statements as a script for ``psql``, one transaction."""
    return "".join(f"{statement};\n" for statement in ("BEGIN", *statements, "COMMIT"))


async def apply(settings: Settings, statements: Sequence[str]) -> None:
    """Run the statements in one transaction.

    Raises:
        DatabaseError: the database refused, for instance since this role may not make others; nothing was changed.
        SchemaRevisionError: the database is not at the revision whose tables the rights are for.
    """
    await require_revision(settings)
    engine = migration_engine(settings)
    try:
        with reported(shown(parse_url(settings.database_url))):
            async with engine.begin() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()


def _place_of(settings: Settings) -> str:
    """What stands before the name of a table: without a schema in the settings, the search path leads to it."""
    if parse_url(settings.database_url).get_backend_name() != "postgresql":
        raise ConfigurationError(
            "SQLite has no roles, this is for Postgres: on SQLite a trigger refuses to change events, and whoever may "
            "write to the file may do all else"
        )
    return f"{_quoted(settings.database_schema)}." if settings.database_schema else ""


def _all_views(place: str) -> str:
    return ", ".join(f"{place}{_quoted(view)}" for view in _EVERY_VIEW)


def _views_given_to(role: str, place: str) -> list[str]:
    """Only who may create in the schema can be given a view; the tables' owner has to stay able to replace it."""
    return [
        _about_sessions(place, f"GRANT {role} TO ", "relowner::regrole", ""),
        _on_schema(place, "GRANT CREATE", f"TO {role}"),
        *(f"ALTER VIEW {place}{_quoted(view)} OWNER TO {role}" for view in _EVERY_VIEW),
        _on_schema(place, "REVOKE CREATE", f"FROM {role}"),
    ]


def _on_schema(place: str, right: str, whom: str) -> str:
    return _about_sessions(place, f"{right} ON SCHEMA ", "relnamespace::regnamespace", f" {whom}")


def _about_sessions(place: str, before: str, what: str, behind: str) -> str:
    """Return a statement with what the catalogue says of the table: its owner, or the schema that it was found in."""
    table = _literal(f"{place}{_quoted('sessions')}")
    found = f"(SELECT {what}::text FROM pg_class WHERE oid = {table}::regclass)"  # noqa: S608 - quoted
    return f"DO {_literal(f'BEGIN EXECUTE {_literal(before)} || {found} || {_literal(behind)}; END')}"


def _policies_on(table: str, prefix: str) -> list[str]:
    application, _, auditor, views = map(_role, role_names(prefix))
    any_right = f"(SELECT has_table_privilege({_literal(table)}::regclass, 'SELECT, UPDATE, DELETE'))"
    return [
        # A constant: the statements of the application are planned as if there were no policy.
        *_policy(role_names(prefix)[0], table, f"TO {application} USING (true) WITH CHECK (true)"),
        *_policy(_policy_by_right(prefix), table, f"USING ({any_right}) WITH CHECK (true)"),
        *_policy(role_names(prefix)[2], table, f"FOR SELECT TO {views} USING ({_asked_by(auditor)})"),
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
    ]


def _policy(name: str, table: str, rule: str) -> list[str]:
    return [f"DROP POLICY IF EXISTS {_quoted(name)} ON {table}", f"CREATE POLICY {_quoted(name)} ON {table} {rule}"]


def _policy_by_right(prefix: str) -> str:
    return f"{prefix}_by_right"


def _asked_by(role: str) -> str:
    """The current user has the rights of the role; once a statement, not once a row. No error if the role is gone."""
    return f"(SELECT pg_has_role(to_regrole({_literal(role)}), 'USAGE'))"


def _role(name: str) -> str:
    if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise ConfigurationError(f"the name of a role has 1 to {_LONGEST_NAME} bytes, and {name!r} has not")
    return _quoted(name)


def _creation_of(role: str) -> str:
    """A role is the whole server's: another database of ours may have made it."""
    return f"DO {_literal(f'BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END')}"


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
