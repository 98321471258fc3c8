"""Every statement on sessions, one named function each, and THE expiry predicate, which stands here once.

The functions build constant SQL; what varies is bound. Where a statement asks for rows ``FOR UPDATE``, it locks them
in the order of their digests, so that no two processes can deadlock; SQLite has one writer and no row locks. A lock
may take its time to come, so expiry is judged again when all of them are held (see ``kept_live``).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Delete,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from mcp_sessions.db.expressions import (
    GIVEN_DIGESTS,
    GIVEN_SESSIONS,
    GIVEN_USES,
    after,
    before,
    earliest,
    insert_into,
    instant,
    latest,
    now,
)
from mcp_sessions.db.tables import SESSION_TIMES, session_events, sessions
from mcp_sessions.db.types import Duration, UtcDateTime
from mcp_sessions.records.sessions import OWNER_FIELDS, Timeouts

SESSION_COLUMNS = (
    sessions.c.session_digest,
    *(sessions.c[name] for name in OWNER_FIELDS),
    sessions.c.created_at,
    sessions.c.last_activity_at,
    sessions.c.expires_at,
)
"""What a ``Session`` is made of."""

USED_COLUMNS = (*SESSION_COLUMNS, sessions.c.settings_version)
"""The same for who uses it, with the version of what its client has set."""


def live(moment: ColumnElement[datetime] | None = None) -> ColumnElement[bool]:
    """Return the predicate of a session that is live now, or was at a moment of the database's clock; no other is."""
    return sessions.c.expires_at > (now() if moment is None else moment)


def expiry_of(activity: ColumnElement[Any], created: ColumnElement[Any], *, bounded: bool) -> ColumnElement[Any]:
    """Return the expiry that follows from the last recorded activity; ``bounded``: an absolute timeout is set.

    Activity up to one touch interval younger than the recorded one is not written, so ``idle_window`` is the idle
    timeout and one touch interval.
    """
    idle = after(activity, bindparam("idle_window", type_=Duration()))
    if not bounded:
        return idle
    return earliest(idle, after(created, bindparam("absolute_timeout", type_=Duration())))


def expiry_window(timeouts: Timeouts) -> dict[str, timedelta]:
    """Return what the expiry is computed from, by the names of its parameters."""
    window = {"idle_window": timeouts.idle + timeouts.touch_interval}
    return window if timeouts.absolute is None else {**window, "absolute_timeout": timeouts.absolute}


def owned_as_given(given: FromClause, owned: FromClause = sessions) -> ColumnElement[bool]:
    """Return the owner check: all parts, null-safely, unless the use comes from trusted code (``any_owner``)."""
    return or_(given.c.any_owner, same_owner(given, owned))


def same_owner(given: FromClause, owned: FromClause = sessions) -> ColumnElement[bool]:
    """Return whether the owner is the given one: all parts, null-safely."""
    return and_(*(owned.c[name].is_not_distinct_from(given.c[name]) for name in OWNER_FIELDS))


@cache
def insert_sessions(dialect: str, *, bounded: bool) -> ReturningInsert[Any]:
    """Insert new sessions; a taken digest is left as it is and its row is missing from the answer."""
    new = new_sessions(dialect)
    moment = new.c.created_at
    expiry = expiry_of(moment, moment, bounded=bounded)
    owner = (new.c[name] for name in OWNER_FIELDS)
    # Without a WHERE, SQLite would read the ON of the conflict clause as that of a join.
    rows = select(new.c.session_digest, *owner, moment, moment, expiry, expiry).where(new.c.session_digest.is_not(None))
    names = [sessions.c.session_digest, *(sessions.c[name] for name in (*OWNER_FIELDS, *SESSION_TIMES))]
    return (
        insert_into(sessions, dialect)
        .from_select(names, rows.order_by(new.c.session_digest))
        .on_conflict_do_nothing(index_elements=[sessions.c.session_digest])
        .returning(sessions.c.session_digest)
    )


def new_sessions(dialect: str) -> FromClause:
    """Return the given sessions with the moment of their creation; on SQLite, later than that of an earlier life.

    An id may be used again at once when its session has ended, the audit trail tells the lives of one id apart by
    their creation, and SQLite's clock counts milliseconds only. It would look for that earlier life once for each
    mention of the moment, were it not told to keep what it found.
    """
    given = GIVEN_SESSIONS.rows(dialect)
    if dialect != "sqlite":
        return select(*given.c, now().label("created_at")).subquery("new")
    earlier = (
        select(func.max(session_events.c.session_created_at, type_=UtcDateTime()))
        .where(
            session_events.c.session_digest == given.c.session_digest,
            session_events.c.session_created_at.between(now(), after(now(), timedelta(seconds=1))),
        )
        .scalar_subquery()
    )
    later = after(earlier, timedelta(milliseconds=1))
    created_at = func.coalesce(later, now(), type_=UtcDateTime()).label("created_at")
    return select(*given.c, created_at).cte("new").prefix_with("MATERIALIZED")


@cache
def find_sessions(dialect: str) -> Select[Any]:
    """Read sessions by digest, each with whether it is ``live`` and whether its touch is ``due``."""
    given = GIVEN_DIGESTS.rows(dialect)
    quiet_since = before(now(), "touch_interval")
    return select(
        *USED_COLUMNS, live().label("live"), (sessions.c.last_activity_at <= quiet_since).label("due")
    ).join_from(given, sessions, given.c.session_digest == sessions.c.session_digest)


@cache
def touch(dialect: str, *, bounded: bool) -> ReturningUpdate[Any]:
    """Record activity of live sessions whose owner is as given; activity and expiry never move backwards.

    ``cleanup_at`` stays while it lies between the recorded activity and the expiry: moving it costs an index entry,
    and on Postgres the heap-only update. SQLite writes that entry anew wherever a statement names the column, so there
    a trigger moves it. On Postgres, rows that another transaction has locked are left out.
    """
    given = GIVEN_USES.rows(dialect)
    meant = sessions.c.session_digest == given.c.session_digest
    entitled = and_(owned_as_given(given), live())
    if dialect == "sqlite":
        activity = latest(sessions.c.last_activity_at, now())
        expiry = expiry_of(activity, sessions.c.created_at, bounded=bounded)
        touched = update(sessions).values(last_activity_at=activity, expires_at=expiry)
        return touched.where(meant, entitled).returning(*USED_COLUMNS)
    columns = sessions.c.session_digest, *(sessions.c[name] for name in SESSION_TIMES)
    wanted = kept_live(select(*columns).join_from(given, sessions, meant).where(entitled), if_free=True)
    activity = latest(wanted.c.last_activity_at, wanted.c.moment)
    expiry = expiry_of(activity, wanted.c.created_at, bounded=bounded)
    stays = wanted.c.cleanup_at.between(activity, expiry)
    return (
        update(sessions)
        .values(
            last_activity_at=activity, expires_at=expiry, cleanup_at=case((stays, wanted.c.cleanup_at), else_=expiry)
        )
        .where(sessions.c.session_digest == wanted.c.session_digest)
        .returning(*USED_COLUMNS)
    )


@cache
def lock_live(dialect: str) -> Select[Any]:
    """Read live sessions by digest and keep them as they are until the transaction ends."""
    given = GIVEN_DIGESTS.rows(dialect)
    return locked(
        select(*SESSION_COLUMNS)
        .join_from(given, sessions, given.c.session_digest == sessions.c.session_digest)
        .where(live())
    )


def lock_if_free() -> Select[Any]:
    """Lock the session of a ``digest``, live or not, unless another transaction has locked it."""
    meant = sessions.c.session_digest == bindparam("digest", type_=sessions.c.session_digest.type)
    return locked(select(sessions.c.session_digest).where(meant), if_free=True)


def newest_creation() -> Select[Any]:
    """Read the newest creation time: no session whose creation was acknowledged before is younger."""
    return select(func.max(sessions.c.created_at, type_=UtcDateTime()))


def lock_some(filters: Mapping[str, str], *, live_only: bool, if_free: bool) -> Select[Any]:
    """Read at most ``limit`` sessions of an owner, none younger than ``newest``, and keep them as they are.

    ``if_free`` takes them from those that no other transaction has locked, in any order: who waits for nobody is in
    nobody's way.
    """
    conditions = _meant(filters, live_only=live_only)
    if if_free:
        free = select(*SESSION_COLUMNS).where(*conditions).limit(bindparam("limit"))
        return free.with_for_update(of=sessions, skip_locked=True)
    some = select(sessions.c.session_digest).where(*conditions).limit(bindparam("limit")).cte("some")
    chosen = select(*SESSION_COLUMNS).where(_among(some), *conditions)
    return select(kept_live(chosen)) if live_only else locked(chosen)


def any_left(filters: Mapping[str, str], *, live_only: bool) -> Select[bool]:
    """Tell whether a session is left of those that ``lock_some`` takes from."""
    return select(exists().where(*_meant(filters, live_only=live_only)))


def _meant(filters: Mapping[str, str], *, live_only: bool) -> list[ColumnElement[bool]]:
    not_younger = sessions.c.created_at <= bindparam("newest", type_=UtcDateTime())
    return [_matching(filters), not_younger, *([live()] if live_only else [])]


@cache
def delete_sessions(dialect: str) -> Delete:
    """Remove sessions that this transaction keeps locked and whose ends it has recorded."""
    return delete(sessions).where(_among(GIVEN_DIGESTS.rows(dialect)))


def page_of_sessions(filters: Mapping[str, str], *, continued: bool) -> Select[Any]:
    """Read at most ``limit`` live sessions, newest first; ``continued``: those behind the cursor's session."""
    place = tuple_(sessions.c.created_at, sessions.c.session_digest)
    statement = select(*SESSION_COLUMNS).where(live(), _matching(filters))
    if continued:
        statement = statement.where(
            place
            < tuple_(
                bindparam("cursor_created_at", type_=UtcDateTime()),
                bindparam("cursor_digest", type_=sessions.c.session_digest.type),
            )
        )
    return statement.order_by(sessions.c.created_at.desc(), sessions.c.session_digest.desc()).limit(bindparam("limit"))


def find_by_prefix() -> Select[Any]:
    """Read live sessions whose digest lies from ``lowest`` to ``highest``, at most ``limit``."""
    return (
        select(*SESSION_COLUMNS)
        .where(sessions.c.session_digest.between(bindparam("lowest"), bindparam("highest")), live())
        .order_by(sessions.c.session_digest)
        .limit(bindparam("limit"))
    )


def count_live(filters: Mapping[str, str]) -> Select[int]:
    """Count live sessions: an expired row that is not swept yet does not count."""
    return select(func.count()).select_from(sessions).where(live(), _matching(filters))


def count_rows_up_to() -> Select[int]:
    """Count rows, expired ones too, but no more than ``limit``: the cost is bounded whatever the table's size."""
    return select(func.count()).select_from(select(sessions.c.session_digest).limit(bindparam("limit")).subquery())


def _matching(filters: Mapping[str, str]) -> ColumnElement[bool]:
    return and_(True, *(sessions.c[name] == bindparam(name, type_=sessions.c[name].type) for name in sorted(filters)))


def _among(chosen: FromClause) -> ColumnElement[bool]:
    return sessions.c.session_digest.in_(select(chosen.c.session_digest))


def locked(chosen: Select[Any], *, if_free: bool = False) -> Select[Any]:
    """Return the statement that keeps what it reads as it is, locked in the order of the digests.

    ``if_free``: rows that another transaction has locked are left out, and nobody waits for them.
    """
    return chosen.order_by(sessions.c.session_digest).with_for_update(of=sessions, skip_locked=if_free)


def kept_live(chosen: Select[Any], *, if_free: bool = False) -> CTE:
    """Return what of ``chosen`` is live once all of it is locked, with that ``moment``.

    Whoever waits for a lock judges too early by the clock of the statement's start, and row by row as the locks come:
    what was found live first is written, and seen, when the last one has come. Only rows as they are locked count,
    for others may have touched them meanwhile. ``if_free`` is that of ``locked``.
    """
    kept = locked(chosen, if_free=if_free).cte("kept").prefix_with("MATERIALIZED")
    judged = select(func.max(instant(), type_=UtcDateTime()).label("moment")).select_from(kept).cte("judged")
    still_live = kept.c.expires_at > judged.c.moment
    return select(*kept.c, judged.c.moment).join_from(kept, judged, still_live).cte("wanted")
