"""The recorded MCP handshakes, from which a worker restores a session that it did not open.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "session_handshakes",
        sa.Column("session_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("protocol_version", sa.Text, nullable=False),
        sa.Column("initialize", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_digest", name=op.f("pk_session_handshakes")),
        sa.ForeignKeyConstraint(
            ["session_digest"],
            ["sessions.session_digest"],
            name=op.f("fk_session_handshakes_session_digest"),
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the table; sessions stay, and are restored no more."""
    op.drop_table("session_handshakes")
