"""Every statement on the audit trail.

That a session was created is recorded by a trigger, for the database knows all there is to tell; so is the end of a
row that somebody removes in SQL. The ends that come from the application are recorded here, before their rows go.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    FromClause,
    Insert,
    Select,
    TextClause,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import Text

from mcp_sessions.db.expressions import (
    GIVEN_ENDS,
    GIVEN_REFUSALS,
    after,
    before,
    earliest,
    insert_into,
    now,
    seconds_between,
    unindexed,
)
from mcp_sessions.db.tables import session_events, sessions
from mcp_sessions.db.types import UtcDateTime
from mcp_sessions.digests import digests_from
from mcp_sessions.records.events import EventFilter
from mcp_sessions.records.sessions import OWNER_FIELDS

_CLAIMED_FIELDS = tuple(f"claimed_{name}" for name in OWNER_FIELDS)
LIFE = ("session_digest", *OWNER_FIELDS, "session_created_at")
"""What of an event says which session it is about."""
_EVENT = (
    *("event_id", "occurred_at", "kind", "reason", "actor"),
    *(*LIFE, "lifetime_seconds", *_CLAIMED_FIELDS),
)

EVENT_COLUMNS = tuple(session_events.c[name] for name in _EVENT)
"""What a ``SessionEvent`` is made of."""


@cache
def record_ends(dialect: str) -> Insert:
    """Record that sessions end, all in one ``kind`` of way, in the transaction that then removes their rows.

    Where somebody put a row back by hand, its life has its end already: that must not keep it from being removed.
    """
    given = GIVEN_ENDS.rows(dialect)
    ends = end_events(sessions, bindparam("kind", type_=Text()), given.c.reason, given.c.actor)
    return insert_ends(dialect, ends.where(sessions.c.session_digest == given.c.session_digest))


def end_events(
    ended: FromClause,
    kind: ColumnElement[str],
    reason: ColumnElement[str],
    actor: ColumnElement[str],
    moment: ColumnElement[datetime] | None = None,
) -> Select[Any]:
    """Read the events that the ends of these sessions make, now or at a moment; one that expired lived until then."""
    at = now() if moment is None else moment
    lifetime = seconds_between(ended.c.created_at, earliest(at, ended.c.expires_at))
    owner = (ended.c[name] for name in OWNER_FIELDS)
    return select(at, kind, reason, actor, ended.c.session_digest, *owner, ended.c.created_at, literal(True), lifetime)


def insert_ends(dialect: str, events: Select[Any]) -> Insert:
    """Record ``end_events``; a life that has its end already keeps that one."""
    names = ["occurred_at", "kind", "reason", "actor", *LIFE, "is_end", "lifetime_seconds"]
    return (
        insert_into(session_events, dialect)
        .from_select(names, events)
        .on_conflict_do_nothing(index_elements=["session_digest", "session_created_at", "is_end"])
    )


@cache
def record_refusals(dialect: str) -> ReturningInsert[Any]:
    """Record refused uses, but none that differs only in its time from one recorded ``quiet_time`` ago."""
    given = GIVEN_REFUSALS.rows(dialect)
    recent = exists().where(
        session_events.c.session_digest == given.c.session_digest,
        session_events.c.kind == "refused",
        session_events.c.occurred_at > before(now(), "quiet_time"),
        session_events.c.occurred_at <= now(),  # or the clock was put back since
        and_(*(session_events.c[name].is_not_distinct_from(given.c[name]) for name in _CLAIMED_FIELDS)),
    )
    columns = [*LIFE, *_CLAIMED_FIELDS]
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
    """Remove at most ``limit`` events that are older than ``retention``, the oldest first."""
    old = (
        select(session_events.c.event_id)
        .where(session_events.c.occurred_at < before(now(), "retention"))
        .order_by(session_events.c.occurred_at)
        .limit(bindparam("limit"))
    )
    return delete(session_events).where(session_events.c.event_id.in_(old))


def page_of_events(wanted: EventFilter, *, continued: bool) -> Select[Any]:
    """Read at most ``limit`` events, newest first; ``continued``: those behind the cursor's event."""
    statement = select(*EVENT_COLUMNS).where(*_fitting(wanted))
    if continued:
        place = tuple_(session_events.c.occurred_at, session_events.c.event_id)
        cursor = tuple_(
            bindparam("cursor_occurred_at", type_=UtcDateTime()),
            bindparam("cursor_event_id", type_=session_events.c.event_id.type),
        )
        statement = statement.where(place < cursor)
    newest_first = session_events.c.occurred_at.desc(), session_events.c.event_id.desc()
    return statement.order_by(*newest_first).limit(bindparam("limit"))


def events_behind(wanted: EventFilter) -> Select[Any]:
    """Read at most ``limit`` events whose number is above ``event_id``, in the order of their numbers.

    Found by their number alone, since few are that new: by tenant or time they would be all there ever were.
    """
    behind = session_events.c.event_id > bindparam("event_id")
    return (
        select(*EVENT_COLUMNS)
        .where(behind, *_fitting(wanted, lambda name: unindexed(session_events.c[name])))
        .order_by(session_events.c.event_id)
        .limit(bindparam("limit"))
    )


def newest_event() -> Select[int]:
    """Read the number of the newest event."""
    return select(func.max(session_events.c.event_id))


def writers() -> TextClause:
    """On Postgres: read the names of the transactions that may have numbered events and have not ended.

    One that writes to a table has locked it before. A standby does not know of such locks, but of transactions.
    """
    return text("""
        SELECT virtualtransaction FROM pg_locks JOIN pg_class ON pg_class.oid = pg_locks.relation
        WHERE relname = 'session_events' AND mode = 'RowExclusiveLock' AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL
        SELECT CAST(pg_snapshot_xip(pg_current_snapshot()) AS text) WHERE pg_is_in_recovery()
    """)


def last_event_before() -> Select[int]:
    """Read the number of the newest event that is older than ``age``."""
    return (
        select(session_events.c.event_id)
        .where(session_events.c.occurred_at < before(now(), "age"))
        .order_by(session_events.c.occurred_at.desc(), session_events.c.event_id.desc())
        .limit(1)
    )


def _fitting(
    wanted: EventFilter, of: Callable[[str], ColumnElement[Any]] = session_events.c.__getitem__
) -> list[ColumnElement[bool]]:
    owner = {name: getattr(wanted, name) for name in OWNER_FIELDS}
    conditions = [of(name) == value for name, value in owner.items() if value is not None]
    if wanted.kinds:
        conditions.append(of("kind").in_(wanted.kinds))
    if wanted.since is not None:
        conditions.append(of("occurred_at") >= _moment(wanted.since))
    if wanted.until is not None:
        conditions.append(of("occurred_at") < _moment(wanted.until))
    if wanted.digest_prefix is not None:
        lowest, highest = digests_from(wanted.digest_prefix)
        conditions.append(of("session_digest").between(lowest, highest))
    return conditions


def _moment(given: datetime | timedelta) -> ColumnElement[datetime]:
    return after(now(), -given) if isinstance(given, timedelta) else literal(given, UtcDateTime())


def may_remove() -> Select[bool]:
    """Tell whether this role of Postgres may delete from both ``events`` and ``runs``, tables named as in SQL."""
    rights = (func.has_table_privilege(bindparam(table, type_=Text()), "DELETE") for table in ("events", "runs"))
    return select(and_(*rights))
