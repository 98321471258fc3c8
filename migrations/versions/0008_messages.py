"""Messages between workers, and the workers with their leases.

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

from mcp_sessions.db.types import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process_id", sa.Integer, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("lease_until", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_workers")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "messages",
        sa.Column("message_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("worker_id", sa.Text),
        sa.Column("session_digest", sa.LargeBinary(32)),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("sent_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_messages")),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.worker_id"], name=op.f("fk_messages_worker_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["session_digest"],
            ["sessions.session_digest"],
            name=op.f("fk_messages_session_digest"),
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_messages_worker_id_message_id"), "messages", ["worker_id", "message_id"])
    op.create_index(op.f("ix_messages_session_digest"), "messages", ["session_digest"])
    op.create_index(op.f("ix_messages_sent_at"), "messages", ["sent_at"])


def downgrade() -> None:
    """Drop the tables, with what is on its way; sessions stay."""
    op.drop_table("messages")
    op.drop_table("workers")
