"""The runs of the cleanup, and the slot that makes one of them the only cleaner.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

from mcp_sessions.db.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "cleanup_runs",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("held_until_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("running_slot", sa.SmallInteger),
        sa.Column("sessions_removed", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_cleanup_runs")),
        sa.CheckConstraint(
            "(running_slot IS NULL) = (ended_at IS NOT NULL)",
            name=op.f("ck_cleanup_runs_slot_is_held_until_the_end"),
        ),
        sa.CheckConstraint("running_slot = 1", name=op.f("ck_cleanup_runs_one_slot")),
    )
    op.create_index(op.f("uq_cleanup_runs_running_slot"), "cleanup_runs", ["running_slot"], unique=True)
    op.create_index(op.f("ix_cleanup_runs_started_at"), "cleanup_runs", ["started_at"])


def downgrade() -> None:
    """Drop the table, with the record of the runs; sessions stay."""
    op.drop_table("cleanup_runs")
