"""The key-value store, for what servers keep beside sessions.

Revision: 0011, after 0010.
"""

import sqlalchemy as sa
from alembic import op

from mcp_sessions.db.types import UtcDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "key_values",
        sa.Column("key_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("key_id", sa.Text),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key_digest", name=op.f("pk_key_values")),
        sa.CheckConstraint("length(key_digest) = 32", name=op.f("ck_key_values_key_digest_is_sha256")),
    )
    op.create_index(op.f("ix_key_values_expires_at"), "key_values", ["expires_at"])


def downgrade() -> None:
    """Drop the table, with all that servers kept in it."""
    op.drop_table("key_values")
