"""Roles on Postgres: who may do what with the tables and the audit trail, as SQL that can be run again and again.

Three roles without a login, to be granted to those who have one. The application records events and can neither
change nor delete them; the cleaner, an application too, may delete what the retention is over for; the auditor reads
the views, and has no right on any table. An auditor of one tenant has a schema of the same name, with the same views
of that tenant alone: Postgres looks there first (``"$user"`` on the ``search_path``).
"""

from collections.abc import Sequence

from mcp_sessions.db.engine import migration_engine
from mcp_sessions.db.faults import FAULTS, translated
from mcp_sessions.db.schema import require_revision
from mcp_sessions.db.tables import VERSION_TABLE
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.settings import Settings

VIEWS = ("active_sessions", "session_history", "tenant_activity")
_OF_APPLICATIONS = {
    "sessions": "SELECT, INSERT, UPDATE, DELETE",
    "session_handshakes": "SELECT, INSERT, UPDATE, DELETE",
    "session_events": "SELECT, INSERT",
    "cleanup_runs": "SELECT, INSERT, UPDATE",
    VERSION_TABLE: "SELECT",
}
_OF_CLEANERS = {"session_events": "SELECT, DELETE", "cleanup_runs": "SELECT, DELETE"}
_LONGEST_NAME = 63


def role_names(prefix: str) -> tuple[str, str, str]:
    """Return the names of the application's, the cleaner's and the auditor's role."""
    return f"{prefix}_application", f"{prefix}_cleaner", f"{prefix}_auditor"


def roles_sql(settings: Settings, prefix: str) -> list[str]:
    """Return the statements that make the three roles and give them their rights, and take any others away.

    Raises:
        ConfigurationError: the database is not Postgres, or cannot have roles of these names.
    """
    schema = _schema_of(settings)
    roles = application, cleaner, auditor = tuple(map(_role, role_names(prefix)))
    sequence = f"SEQUENCE {schema}.{_quoted('session_events_event_id_seq')}"
    everything = ", ".join(f"{schema}.{_quoted(name)}" for name in (*_OF_APPLICATIONS, *VIEWS))
    return [
        *map(_creation_of, roles),
        *(f"REVOKE ALL ON {everything} FROM {role}" for role in roles),
        *(f"GRANT USAGE ON SCHEMA {schema} TO {role}" for role in roles),
        *(
            f"GRANT {rights} ON {schema}.{_quoted(table)} TO {application}"
            for table, rights in _OF_APPLICATIONS.items()
        ),
        f"GRANT USAGE ON {sequence} TO {application}",
        f"GRANT {application} TO {cleaner}",
        *(f"GRANT {rights} ON {schema}.{_quoted(table)} TO {cleaner}" for table, rights in _OF_CLEANERS.items()),
        *(f"GRANT SELECT ON {schema}.{_quoted(view)} TO {auditor}" for view in VIEWS),
    ]


def tenant_auditor_sql(settings: Settings, name: str, tenant_id: str) -> list[str]:
    """Return the statements that make a role that reads the views of one tenant, and nothing else.

    Raises:
        ConfigurationError: the database is not Postgres, or cannot have a role of this name.
    """
    schema, role, tenant = _schema_of(settings), _role(name), _literal(tenant_id)
    if name == (settings.database_schema or "public"):
        raise ConfigurationError(f"the schema {name} holds the tables: give the auditor another name")
    return [
        _creation_of(role),
        f"CREATE SCHEMA IF NOT EXISTS {role}",
        # security_barrier: no function in the auditor's own query gets to see a row of another tenant.
        *(
            f"CREATE OR REPLACE VIEW {role}.{_quoted(view)} WITH (security_barrier) AS "  # noqa: S608 - quoted
            f"SELECT * FROM {schema}.{_quoted(view)} WHERE tenant_id = {tenant}"
            for view in VIEWS
        ),
        f"GRANT USAGE ON SCHEMA {role} TO {role}",
        *(f"GRANT SELECT ON {role}.{_quoted(view)} TO {role}" for view in VIEWS),
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
        async with engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)
    except FAULTS as fault:
        raise translated(fault, shown(parse_url(settings.database_url))) from fault
    finally:
        await engine.dispose()


def _schema_of(settings: Settings) -> str:
    if parse_url(settings.database_url).get_backend_name() != "postgresql":
        raise ConfigurationError(
            "SQLite has no roles, this is for Postgres: on SQLite a trigger refuses to change events, and whoever may "
            "write to the file may do all else"
        )
    return _quoted(settings.database_schema or "public")


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
