"""Numbers of events that are given once, handshakes that go with their sessions, and the tables as auditors see them.

SQLite: without AUTOINCREMENT it gives the number of the newest event again once that event is removed, as the retention
does, and whoever follows the trail takes the next event for one already seen. SQLite cannot add it to a table: the
trail is copied to a new one, row by row, in the one transaction of the migration.

Foreign keys are off in a shell, where a DELETE left the handshake behind, for the next session with that id. Triggers
hold without them: none outlives its session, and none is older than it, as after an INSERT OR REPLACE.

Postgres has a sequence and its foreign keys. It has roles, too, and an auditor's may read no table: the commands read
these views instead, which have the columns of the tables. Row-level security on the tables decides which rows they
show, and whoever may read ``audit_every_tenant`` sees what is not one tenant's: the cleanup runs, and the owners of
other tenants that refused uses came with.

Revision: 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

from mcp_sessions.db.types import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OWNER = ("tenant_id", "client_id", "issuer", "subject")
COPY = "session_events_copied"
INDEXES = (("occurred_at",), ("tenant_id", "occurred_at"))

APPEND_ONLY = """
    CREATE TRIGGER session_events_append_only BEFORE UPDATE ON session_events
    BEGIN
        SELECT RAISE(ABORT, 'session_events is append-only: an event is never changed');
    END
"""

EVERY_TENANT = "has_table_privilege('audit_every_tenant'::regclass, 'SELECT')"
EVENT = ("event_id", "occurred_at", "kind", "reason", "actor", "session_digest", *OWNER, "session_created_at")
CLAIMS = ", ".join(
    f"CASE WHEN claimed_tenant_id IS NOT DISTINCT FROM tenant_id OR {EVERY_TENANT} THEN claimed_{name} END "
    f"AS claimed_{name}"
    for name in OWNER
)
SESSION = ("session_digest", *OWNER, "created_at", "last_activity_at", "expires_at", "cleanup_at")
RUN = ("run_id", "worker", "started_at", "held_until_at", "ended_at", "running_slot", "sessions_removed")
VIEWS = {
    "audit_every_tenant": "SELECT true AS sees_every_tenant",
    "audit_schema_revision": "SELECT version_num FROM mcp_sessions_alembic_version",
    "audit_sessions": f"SELECT {', '.join(SESSION)} FROM sessions",  # noqa: S608 - constants, as all of these
    "audit_session_events": f"SELECT {', '.join(EVENT)}, is_end, lifetime_seconds, {CLAIMS} FROM session_events",  # noqa: S608
    "audit_cleanup_runs": f"SELECT {', '.join(RUN)}, events_removed, error FROM cleanup_runs WHERE {EVERY_TENANT}",  # noqa: S608
}

HANDSHAKES = {
    "session_handshakes_none_yet": ("AFTER INSERT", "NEW"),
    "session_handshakes_no_more": ("AFTER DELETE", "OLD"),
}


def upgrade() -> None:
    """Create the views; or make the trail anew, remove what was left of handshakes, then set the triggers."""
    if op.get_context().dialect.name != "sqlite":
        for name, query in VIEWS.items():
            op.execute(f"CREATE VIEW {name} WITH (security_barrier) AS {query}")
        return
    make_trail_anew(autoincrement=True)
    op.execute("DELETE FROM session_handshakes WHERE session_digest NOT IN (SELECT session_digest FROM sessions)")
    for name, (moment, row) in HANDSHAKES.items():
        op.execute(
            f"CREATE TRIGGER {name} {moment} ON sessions FOR EACH ROW "  # noqa: S608
            f"BEGIN DELETE FROM session_handshakes WHERE session_digest = {row}.session_digest; END"
        )


def downgrade() -> None:
    """Drop the views; or the triggers, and make the trail anew without AUTOINCREMENT."""
    if op.get_context().dialect.name != "sqlite":
        for name in reversed(VIEWS):
            op.execute(f"DROP VIEW {name}")
        return
    for name in HANDSHAKES:
        op.execute(f"DROP TRIGGER {name}")
    make_trail_anew(autoincrement=False)


def make_trail_anew(*, autoincrement: bool) -> None:
    """Copy the trail to a new table of the same name, with its indexes and triggers."""
    theirs = set_up_by_others()
    columns = create_table(COPY, autoincrement=autoincrement)
    names = ", ".join(columns)
    op.execute(f"INSERT INTO {COPY} ({names}) SELECT {names} FROM session_events ORDER BY event_id")  # noqa: S608
    op.drop_table("session_events")
    # Else SQLite would refuse the new name: triggers and views that mean the old table have none just now.
    op.execute("PRAGMA legacy_alter_table = ON")
    op.rename_table(COPY, "session_events")
    op.execute("PRAGMA legacy_alter_table = OFF")
    for each in INDEXES:
        op.create_index(op.f(f"ix_session_events_{'_'.join(each)}"), "session_events", each)
    op.execute(APPEND_ONLY)
    for definition in theirs:
        op.execute(sa.DDL(definition.replace("%", "%%")))


def set_up_by_others() -> list[str]:
    """Return how the indexes and triggers on the trail are defined that operators added; in print, there are none."""
    if op.get_context().as_sql:
        return []
    ours = ["session_events_append_only", *(f"ix_session_events_{'_'.join(each)}" for each in INDEXES)]
    found = sa.text(
        "SELECT sql FROM sqlite_master WHERE tbl_name = 'session_events' AND type IN ('index', 'trigger') "
        "AND sql IS NOT NULL AND name NOT IN :ours"
    ).bindparams(sa.bindparam("ours", ours, expanding=True))
    return list(op.get_bind().execute(found).scalars())


def create_table(name: str, *, autoincrement: bool) -> list[str]:
    """Create a table for events, and return the names of its columns."""
    table = op.create_table(
        name,
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("occurred_at", UtcDateTime, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("session_digest", sa.LargeBinary(32), nullable=False),
        *(sa.Column(column, sa.Text) for column in OWNER),
        sa.Column("session_created_at", UtcDateTime, nullable=False),
        sa.Column("is_end", sa.Boolean),
        sa.Column("lifetime_seconds", sa.Double),
        *(sa.Column(f"claimed_{column}", sa.Text) for column in OWNER),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_session_events")),
        sa.UniqueConstraint(
            "session_digest",
            "session_created_at",
            "is_end",
            name=op.f("uq_session_events_session_digest_session_created_at_is_end"),
        ),
        sa.CheckConstraint("length(session_digest) = 32", name=op.f("ck_session_events_session_digest_is_sha256")),
        sa.CheckConstraint(
            "kind IN ('created', 'terminated', 'revoked', 'expired', 'cleared', 'deleted', 'refused')",
            name=op.f("ck_session_events_kind"),
        ),
        sa.CheckConstraint(
            "actor IN ('owner', 'application', 'operator', 'cleanup', 'database', 'foreign')",
            name=op.f("ck_session_events_actor"),
        ),
        sa.CheckConstraint(
            "(kind = 'refused') = (is_end IS NULL) AND (is_end IS NULL OR is_end = (kind <> 'created'))",
            name=op.f("ck_session_events_is_end_fits_the_kind"),
        ),
        sqlite_autoincrement=autoincrement,
    )
    return [column.name for column in table.columns]
