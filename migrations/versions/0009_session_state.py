"""The state of sessions: JSON values that belong to a session and end with it.

Triggers end it on SQLite, too, where somebody removes or replaces a session by hand: foreign keys are off in most
programs.

Revision: 0009, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TRIGGERS = {"session_state_none_yet": ("AFTER INSERT", "NEW"), "session_state_no_more": ("AFTER DELETE", "OLD")}


def upgrade() -> None:
    """Create the table, and the trigger on SQLite."""
    op.create_table(
        "session_state",
        sa.Column("session_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_digest", "name", name=op.f("pk_session_state")),
        sa.ForeignKeyConstraint(
            ["session_digest"],
            ["sessions.session_digest"],
            name=op.f("fk_session_state_session_digest"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 256", name=op.f("ck_session_state_name_length")),
    )
    if op.get_context().dialect.name == "sqlite":
        for name, (moment, row) in TRIGGERS.items():
            op.execute(
                f"CREATE TRIGGER {name} {moment} ON sessions FOR EACH ROW "  # noqa: S608 - constants
                f"BEGIN DELETE FROM session_state WHERE session_digest = {row}.session_digest; END"
            )


def downgrade() -> None:
    """Drop the table; sessions stay, without their state."""
    if op.get_context().dialect.name == "sqlite":
        for name in TRIGGERS:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_table("session_state")
