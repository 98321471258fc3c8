"""What clients set for their sessions: the level of log messages, and the resources that they follow.

Triggers end it on SQLite, too, where somebody removes or replaces a session by hand: foreign keys are off in most
programs.

Revision: 0013, after 0011.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

TRIGGERS = {"client_settings_none_yet": ("AFTER INSERT", "NEW"), "client_settings_no_more": ("AFTER DELETE", "OLD")}


def upgrade() -> None:
    """Create the table and its version in ``sessions``, and the triggers on SQLite."""
    op.add_column("sessions", sa.Column("settings_version", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "client_settings",
        sa.Column("session_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("settings", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_digest", name=op.f("pk_client_settings")),
        sa.ForeignKeyConstraint(
            ["session_digest"],
            ["sessions.session_digest"],
            name=op.f("fk_client_settings_session_digest"),
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )
    if op.get_context().dialect.name == "sqlite":
        for name, (moment, row) in TRIGGERS.items():
            op.execute(
                f"CREATE TRIGGER {name} {moment} ON sessions FOR EACH ROW "  # noqa: S608 - constants
                f"BEGIN DELETE FROM client_settings WHERE session_digest = {row}.session_digest; END"
            )


def downgrade() -> None:
    """Drop both; sessions stay, and what their clients set is what each worker has of it."""
    if op.get_context().dialect.name == "sqlite":
        for name in TRIGGERS:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_table("client_settings")
    op.drop_column("sessions", "settings_version")
