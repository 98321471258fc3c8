"""Views for people: what is live, what was, and how much of it. They need no function of ours.

They show a session as logs do, by the first 12 hex digits of its digest; the columns have the same names and
meanings on both engines, and days are days in UTC.

Revision: 0005, after 0004.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

END_KINDS = ("terminated", "revoked", "expired", "cleared", "deleted")


def upgrade() -> None:
    """Create the views."""
    dialect = SQLite if op.get_context().dialect.name == "sqlite" else Postgres
    for view in (active_sessions, session_history, tenant_activity):
        op.execute(f"CREATE VIEW {view.__name__} AS {view(dialect)}")


def downgrade() -> None:
    """Drop the views."""
    for name in ("active_sessions", "session_history", "tenant_activity"):
        op.execute(f"DROP VIEW {name}")


class Postgres:
    """How Postgres says it."""

    now = "statement_timestamp()"
    short_digest = "left(encode(session_digest, 'hex'), 12)"
    no_time = "CAST(NULL AS timestamptz)"
    day = "CAST(occurred_at AT TIME ZONE 'UTC' AS date)"

    @staticmethod
    def seconds(start: str, end: str) -> str:
        """Return how many seconds lie between two moments."""
        return f"CAST(round(extract(epoch FROM {end} - {start}), 3) AS double precision)"

    @staticmethod
    def later(moment: str, seconds: str) -> str:
        """Return the moment so many seconds later."""
        return f"{moment} + {seconds} * interval '1 second'"


class SQLite:
    """How SQLite says it."""

    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    short_digest = "lower(substr(hex(session_digest), 1, 12))"
    no_time = "NULL"
    day = "date(occurred_at)"

    @staticmethod
    def seconds(start: str, end: str) -> str:
        """Return how many seconds lie between two moments."""
        return f"round((julianday({end}) - julianday({start})) * 86400, 3)"

    @staticmethod
    def later(moment: str, seconds: str) -> str:
        """Return the moment so many seconds later."""
        return f"strftime('%Y-%m-%d %H:%M:%f', {moment}, {seconds} || ' seconds')"


Dialect = type[Postgres] | type[SQLite]


def active_sessions(say: Dialect) -> str:
    """Live sessions by the database's clock, with age and idle time."""
    return f"""
    SELECT {say.short_digest} AS session, tenant_id, client_id, issuer, subject,
           created_at AS opened_at, last_activity_at, expires_at,
           {say.seconds("created_at", say.now)} AS age_seconds,
           {say.seconds("last_activity_at", say.now)} AS idle_seconds
    FROM sessions
    WHERE expires_at > {say.now}
    """  # noqa: S608 - constants


def session_history(say: Dialect) -> str:
    """One row a session: those that ended by their event, the others by their row.

    What has expired has ended, also where the cleanup has yet to come by.
    """
    return f"""
    SELECT {say.short_digest} AS session, tenant_id, client_id, issuer, subject,
           session_created_at AS opened_at,
           coalesce({say.later("session_created_at", "lifetime_seconds")}, occurred_at) AS ended_at,
           kind AS end_kind, reason AS end_reason, actor AS ended_by,
           lifetime_seconds AS duration_seconds
    FROM session_events
    WHERE is_end
    UNION ALL
    SELECT {say.short_digest}, tenant_id, client_id, issuer, subject, created_at,
           {say.no_time}, NULL, NULL, NULL, {say.seconds("created_at", say.now)}
    FROM sessions
    WHERE expires_at > {say.now}
    UNION ALL
    SELECT {say.short_digest}, tenant_id, client_id, issuer, subject, created_at,
           expires_at, 'expired', 'expired', NULL, {say.seconds("created_at", "expires_at")}
    FROM sessions
    WHERE expires_at <= {say.now}
    """  # noqa: S608 - constants


def tenant_activity(say: Dialect) -> str:
    """What happened per tenant and day, and how many sessions there were when the day ended.

    That number is counted back from the rows there are now: forward, it would need events that the retention removed.
    """
    by_kind = ", ".join(f"count(*) FILTER (WHERE kind = '{kind}') AS {kind}" for kind in END_KINDS)
    return f"""
    WITH changes AS (
        SELECT tenant_id, {say.day} AS day,
               count(*) FILTER (WHERE kind = 'created') AS opened,
               count(*) FILTER (WHERE is_end) AS ended,
               {by_kind},
               count(*) FILTER (WHERE kind = 'refused') AS refused,
               0 AS stored
        FROM session_events
        GROUP BY tenant_id, {say.day}
        UNION ALL
        SELECT tenant_id, NULL, 0, 0, 0, 0, 0, 0, 0, 0, count(*) FROM sessions GROUP BY tenant_id
    ), counted AS (
        SELECT changes.*,
               sum(stored) OVER (PARTITION BY tenant_id) AS open_now,
               sum(opened - ended) OVER (PARTITION BY tenant_id ORDER BY day DESC
                                         ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS change_since
        FROM changes
    )
    SELECT tenant_id, day, opened, ended, {", ".join(END_KINDS)}, refused,
           CAST(open_now - coalesce(change_since, 0) AS bigint) AS open_at_end
    FROM counted
    WHERE day IS NOT NULL
    """  # noqa: S608 - constants
