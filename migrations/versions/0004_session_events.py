"""The audit trail: what happened to every session, written in the transaction that did it.

Triggers record what needs no word from the application: that a session was created, and that its row was removed
by anything but the application, which records each end itself, with its reason, before it removes the row. The
unique key of a session's life makes both exactly once.

A downgrade keeps the trail under another name, and the next upgrade takes it back and closes the gap: sessions
opened or ended in between get their events, marked as such.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

from mcp_sessions.db.types import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OWNER = ("tenant_id", "client_id", "issuer", "subject")
CLAIMED = tuple(f"claimed_{name}" for name in OWNER)
ARCHIVE = "session_events_archived"


def upgrade() -> None:
    """Create the table or take it back from the archive, record the sessions there are, then set the triggers."""
    sqlite = op.get_context().dialect.name == "sqlite"
    if sqlite:  # which cannot rename a table only if it exists
        create_table(ARCHIVE)
        op.rename_table(ARCHIVE, "session_events")
    else:
        op.execute("SET LOCAL client_min_messages = warning")  # nobody need know of what exists already
        op.execute(TAKE_BACK)
        create_table("session_events")
    for columns in (("occurred_at",), ("tenant_id", "occurred_at")):
        name = op.f(f"ix_session_events_{'_'.join(columns)}")
        op.create_index(name, "session_events", columns, if_not_exists=True)
    # On Postgres the triggers lock the table against writes until the end: most of the work is done before.
    op.execute(RECORD_UNRECORDED)
    for statement in TRIGGERS["sqlite" if sqlite else "postgresql"]:
        op.execute(statement)
    # After the sessions, as a sweep locks them: it would wait for the one table and hold the other.
    op.add_column("cleanup_runs", sa.Column("events_removed", sa.Integer, nullable=False, server_default="0"))
    op.execute(RECORD_UNRECORDED)
    op.execute(RECORD_LOST.format(now="strftime('%Y-%m-%d %H:%M:%f', 'now')" if sqlite else "statement_timestamp()"))


def downgrade() -> None:
    """Stop recording and put the trail away as ``session_events_archived``: drop that by hand, if at all."""
    if op.get_context().dialect.name == "sqlite":
        for name in ("sessions_created", "sessions_deleted", "session_events_append_only"):
            op.execute(f"DROP TRIGGER {name}")
    else:
        for name in ("sessions_created", "sessions_deleted", "sessions_truncated"):
            op.execute(f"DROP TRIGGER {name} ON sessions")
        op.execute("DROP TRIGGER session_events_append_only ON session_events")
        op.execute("DROP FUNCTION session_events_record(), session_events_append_only()")
    op.drop_column("cleanup_runs", "events_removed")
    op.rename_table("session_events", ARCHIVE)


def create_table(name: str) -> None:
    """Create the table, unless it is there."""
    op.create_table(
        name,
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("occurred_at", UtcDateTime, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("session_digest", sa.LargeBinary(32), nullable=False),
        *(sa.Column(column, sa.Text) for column in OWNER),
        sa.Column("session_created_at", UtcDateTime, nullable=False),
        sa.Column("is_end", sa.Boolean),
        sa.Column("lifetime_seconds", sa.Double),
        *(sa.Column(column, sa.Text) for column in CLAIMED),
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
        if_not_exists=True,
    )


TAKE_BACK = f"""
    DO $$
    BEGIN
        IF to_regclass('{ARCHIVE}') IS NOT NULL THEN
            ALTER TABLE {ARCHIVE} RENAME TO session_events;
        END IF;
    END
    $$
"""

COLUMNS = (
    f"occurred_at, kind, reason, actor, session_digest, {', '.join(OWNER)}, "
    "session_created_at, is_end, lifetime_seconds"
)

RECORD_UNRECORDED = f"""
    INSERT INTO session_events ({COLUMNS})
    SELECT created_at, 'created', 'created before the audit trail', 'owner',
           session_digest, {", ".join(OWNER)}, created_at, false, NULL
    FROM sessions
    WHERE NOT EXISTS (
        SELECT 1 FROM session_events
        WHERE session_events.session_digest = sessions.session_digest
          AND session_events.session_created_at = sessions.created_at
          AND NOT session_events.is_end
    )
"""  # noqa: S608 - constants

RECORD_LOST = f"""
    INSERT INTO session_events ({COLUMNS})
    SELECT {{now}}, 'deleted', 'ended while the audit trail was off', 'database',
           session_digest, {", ".join(OWNER)}, session_created_at, true, NULL
    FROM session_events opened
    WHERE NOT is_end
      AND NOT EXISTS (
          SELECT 1 FROM session_events ended
          WHERE ended.session_digest = opened.session_digest
            AND ended.session_created_at = opened.session_created_at
            AND ended.is_end
      )
      AND NOT EXISTS (
          SELECT 1 FROM sessions
          WHERE sessions.session_digest = opened.session_digest
            AND sessions.created_at = opened.session_created_at
      )
"""  # noqa: S608 - constants

# What a trigger has to know of the application's own ends: that their events are there already.
SQLITE_LIFETIME = (
    "max(0.0, round((julianday(min(strftime('%Y-%m-%d %H:%M:%f', 'now'), OLD.expires_at)) "
    "- julianday(OLD.created_at)) * 86400, 3))"
)
POSTGRES_LIFETIME = "greatest(0, extract(epoch FROM least(statement_timestamp(), expires_at) - created_at))"

TRIGGERS = {
    "sqlite": (
        f"""
        CREATE TRIGGER sessions_created AFTER INSERT ON sessions FOR EACH ROW
        BEGIN
            INSERT INTO session_events ({COLUMNS})
            VALUES (strftime('%Y-%m-%d %H:%M:%f', 'now'), 'created', 'created', 'owner',
                    NEW.session_digest, {", ".join(f"NEW.{name}" for name in OWNER)}, NEW.created_at, false, NULL)
            ON CONFLICT (session_digest, session_created_at, is_end) DO NOTHING;
        END
        """,  # noqa: S608 - constants
        f"""
        CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions FOR EACH ROW
        BEGIN
            INSERT INTO session_events ({COLUMNS})
            VALUES (strftime('%Y-%m-%d %H:%M:%f', 'now'), 'deleted', 'deleted outside the application', 'database',
                    OLD.session_digest, {", ".join(f"OLD.{name}" for name in OWNER)}, OLD.created_at, true,
                    {SQLITE_LIFETIME})
            ON CONFLICT (session_digest, session_created_at, is_end) DO NOTHING;
        END
        """,  # noqa: S608 - constants
        """
        CREATE TRIGGER session_events_append_only BEFORE UPDATE ON session_events
        BEGIN
            SELECT RAISE(ABORT, 'session_events is append-only: an event is never changed');
        END
        """,
    ),
    "postgresql": (
        # SECURITY DEFINER: whoever may remove a session leaves its event, and needs no right to write events.
        f"""
        CREATE FUNCTION session_events_record() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                EXECUTE format($insert$
                    INSERT INTO %1$I.session_events ({COLUMNS})
                    SELECT statement_timestamp(), 'created', 'created', 'owner',
                           session_digest, {", ".join(OWNER)}, created_at, false, NULL
                    FROM changed
                    ON CONFLICT (session_digest, session_created_at, is_end) DO NOTHING
                $insert$, TG_TABLE_SCHEMA);
            ELSE
                EXECUTE format($insert$
                    INSERT INTO %1$I.session_events ({COLUMNS})
                    SELECT statement_timestamp(), 'deleted', 'deleted outside the application, by ' || session_user,
                           'database', session_digest, {", ".join(OWNER)}, created_at, true, {POSTGRES_LIFETIME}
                    FROM %2$s gone
                    ON CONFLICT (session_digest, session_created_at, is_end) DO NOTHING
                $insert$, TG_TABLE_SCHEMA,
                CASE TG_OP WHEN 'DELETE' THEN 'changed' ELSE format('%I.sessions', TG_TABLE_SCHEMA) END);
            END IF;
            RETURN NULL;
        END
        $$
        """,  # noqa: S608 - constants
        # Else whoever makes a temporary table could have code of their own run by the owner's rights. To fire a
        # trigger, nobody needs the right.
        "REVOKE EXECUTE ON FUNCTION session_events_record() FROM PUBLIC",
        """
        CREATE TRIGGER sessions_created AFTER INSERT ON sessions REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION session_events_record()
        """,
        """
        CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions REFERENCING OLD TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION session_events_record()
        """,
        """
        CREATE TRIGGER sessions_truncated BEFORE TRUNCATE ON sessions
        FOR EACH STATEMENT EXECUTE FUNCTION session_events_record()
        """,
        """
        CREATE FUNCTION session_events_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'session_events is append-only: an event is never changed';
        END
        $$
        """,
        """
        CREATE TRIGGER session_events_append_only BEFORE UPDATE OR TRUNCATE ON session_events
        FOR EACH STATEMENT EXECUTE FUNCTION session_events_append_only()
        """,
    ),
}
