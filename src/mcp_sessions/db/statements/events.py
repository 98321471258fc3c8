"""Every statement on the audit trail.

That a session was created is recorded by a trigger, for the database knows all there is to tell; so is the end of a
row that somebody removes in SQL. The ends that come from the application are recorded here, before their rows go.
"""

from functools import cache
from typing import Any

from sqlalchemy import Delete, Insert, and_, bindparam, delete, exists, literal, select
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import Text

from mcp_sessions.db.expressions import (
    GIVEN_ENDS,
    GIVEN_REFUSALS,
    after,
    earliest,
    insert_into,
    now,
    seconds_between,
)
from mcp_sessions.db.tables import session_events, sessions
from mcp_sessions.db.types import Duration
from mcp_sessions.model import OWNER_FIELDS

_CLAIMED_FIELDS = tuple(f"claimed_{name}" for name in OWNER_FIELDS)
_LIFE = ("session_digest", *OWNER_FIELDS, "session_created_at")


@cache
def record_ends(dialect: str) -> Insert:
    """Record that sessions end, all in one ``kind`` of way, in the transaction that then removes their rows.

    A session that expired before lived until then. A life that has its end already keeps that one: somebody put the
    row back by hand, and that must not keep it from being removed again.
    """
    given = GIVEN_ENDS.rows(dialect)
    died = earliest(now(), sessions.c.expires_at)
    rows = select(
        now(),
        bindparam("kind", type_=Text()),
        given.c.reason,
        given.c.actor,
        sessions.c.session_digest,
        *(sessions.c[name] for name in OWNER_FIELDS),
        sessions.c.created_at,
        literal(True),
        seconds_between(sessions.c.created_at, died),
    ).where(sessions.c.session_digest == given.c.session_digest)
    names = ["occurred_at", "kind", "reason", "actor", *_LIFE, "is_end", "lifetime_seconds"]
    return (
        insert_into(session_events, dialect)
        .from_select(names, rows)
        .on_conflict_do_nothing(index_elements=["session_digest", "session_created_at", "is_end"])
    )


@cache
def record_refusals(dialect: str) -> ReturningInsert[Any]:
    """Record refused uses, but none that differs only in its time from one recorded ``-minus_quiet_time`` ago."""
    given = GIVEN_REFUSALS.rows(dialect)
    recent = exists().where(
        session_events.c.session_digest == given.c.session_digest,
        session_events.c.kind == "refused",
        session_events.c.occurred_at > after(now(), bindparam("minus_quiet_time", type_=Duration())),
        and_(*(session_events.c[name].is_not_distinct_from(given.c[name]) for name in _CLAIMED_FIELDS)),
    )
    columns = [*_LIFE, *_CLAIMED_FIELDS]
    rows = select(
        now(),
        literal("refused"),
        literal("used by another owner"),
        literal("foreign"),
        *(given.c[name] for name in columns),
    ).where(~recent)
    return (
        insert_into(session_events, dialect)
        .from_select(["occurred_at", "kind", "reason", "actor", *columns], rows)
        .returning(session_events.c.event_id)
    )


def remove_events() -> Delete:
    """Remove at most ``limit`` events that are older than ``-minus_retention``, the oldest first."""
    old = (
        select(session_events.c.event_id)
        .where(session_events.c.occurred_at < after(now(), bindparam("minus_retention", type_=Duration())))
        .order_by(session_events.c.occurred_at)
        .limit(bindparam("limit"))
    )
    return delete(session_events).where(session_events.c.event_id.in_(old))
