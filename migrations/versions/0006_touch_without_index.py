"""A touch on SQLite that changes no index: a trigger moves ``cleanup_at``, and no touch names it.

SQLite writes the entries of an index anew wherever an UPDATE names one of its columns, changed or not. Postgres
compares, and keeps the trigger that it has.

Revision: 0006, after 0005.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TRIGGER = "sessions_cleanup_follows_expiry AFTER UPDATE OF expires_at ON sessions"
FOLLOW = "UPDATE sessions SET cleanup_at = NEW.expires_at WHERE session_digest = NEW.session_digest;"
AHEAD, OVERTAKEN = "NEW.cleanup_at > NEW.expires_at", "NEW.cleanup_at <= NEW.last_activity_at"


def upgrade() -> None:
    """Have the trigger move ``cleanup_at`` on, too, where the activity has overtaken it."""
    _follow_when(f"{AHEAD} OR {OVERTAKEN}")


def downgrade() -> None:
    """Have the trigger bring ``cleanup_at`` forward only."""
    _follow_when(AHEAD)


def _follow_when(condition: str) -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER sessions_cleanup_follows_expiry")
        op.execute(f"CREATE TRIGGER {TRIGGER} FOR EACH ROW WHEN {condition} BEGIN {FOLLOW} END")
