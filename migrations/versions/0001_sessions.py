"""The sessions.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

from mcp_sessions.db.types import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OWNER = ("tenant_id", "client_id", "issuer", "subject")
TIMES = ("created_at", "last_activity_at", "expires_at", "cleanup_at")


def upgrade() -> None:
    """Create the table, its indexes and its trigger."""
    op.create_table(
        "sessions",
        sa.Column("session_digest", sa.LargeBinary(32), nullable=False),
        *(sa.Column(name, sa.Text) for name in OWNER),
        *(sa.Column(name, UtcDateTime, nullable=False) for name in TIMES),
        sa.PrimaryKeyConstraint("session_digest", name=op.f("pk_sessions")),
        sa.CheckConstraint("length(session_digest) = 32", name=op.f("ck_sessions_session_digest_is_sha256")),
        *(
            sa.CheckConstraint(f"length({name}) BETWEEN 1 AND 512", name=op.f(f"ck_sessions_{name}_length"))
            for name in OWNER
        ),
        sqlite_with_rowid=False,
        postgresql_with={"fillfactor": 70},
    )
    for columns in (
        ("tenant_id", "client_id", "created_at", "session_digest"),
        ("client_id", "created_at", "session_digest"),
        ("subject", "created_at", "session_digest"),
        ("created_at", "session_digest"),
        ("cleanup_at",),
    ):
        op.create_index(op.f(f"ix_sessions_{'_'.join(columns)}"), "sessions", columns)
    for statement in CLEANUP_FOLLOWS_EXPIRY[op.get_context().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    """Drop the table, with every session."""
    op.drop_table("sessions")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION sessions_cleanup_follows_expiry()")


# The cleanup finds a session by cleanup_at, which is never after expires_at. The application sees to that itself;
# this trigger does for an operator who brings an expiry forward by hand, and costs a comparison otherwise.
CLEANUP_FOLLOWS_EXPIRY = {
    "sqlite": (
        """
        CREATE TRIGGER sessions_cleanup_follows_expiry AFTER UPDATE OF expires_at ON sessions
        FOR EACH ROW WHEN NEW.cleanup_at > NEW.expires_at
        BEGIN
            UPDATE sessions SET cleanup_at = NEW.expires_at WHERE session_digest = NEW.session_digest;
        END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION sessions_cleanup_follows_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            EXECUTE format('UPDATE %I.sessions SET cleanup_at = expires_at WHERE session_digest = $1',
                           TG_TABLE_SCHEMA) USING NEW.session_digest;
            RETURN NULL;
        END
        $$
        """,
        """
        CREATE TRIGGER sessions_cleanup_follows_expiry AFTER UPDATE OF expires_at ON sessions
        FOR EACH ROW WHEN (NEW.cleanup_at > NEW.expires_at)
        EXECUTE FUNCTION sessions_cleanup_follows_expiry()
        """,
    ),
}
