"""Recorded handshakes can be sealed: which key each one was sealed with.

Revision: 0010, after 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: null is for those that are not sealed."""
    op.add_column("session_handshakes", sa.Column("key_id", sa.Text))


def downgrade() -> None:
    """Drop the column, and the handshakes that nobody could read without it; their sessions stay."""
    op.execute("DELETE FROM session_handshakes WHERE key_id IS NOT NULL")
    op.drop_column("session_handshakes", "key_id")
