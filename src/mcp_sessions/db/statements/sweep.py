"""The sweep: expired sessions leave together with their events, the longest expired first, so many at a time.

On Postgres it is one statement. SQLite cannot write to two tables in one, so there it is several over the same rows:
nobody else writes between them, and all ask about the same moment.
"""

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    FromClause,
    Insert,
    Select,
    any_,
    bindparam,
    delete,
    func,
    literal,
    literal_column,
    select,
)

from mcp_sessions.db.expressions import now
from mcp_sessions.db.statements.events import end_events, insert_ends
from mcp_sessions.db.statements.sessions import live
from mcp_sessions.db.tables import sessions
from mcp_sessions.db.types import UtcDateTime

_MOMENT = bindparam("moment", type_=UtcDateTime())
_HOW = literal("expired"), literal("expired"), literal("cleanup")


@cache
def sweep() -> Select[int, Any]:
    """On Postgres: record and remove what has expired; read how many, and the last ``cleanup_at`` among them.

    What another transaction holds is skipped: it is being touched or ended right now. The others were asked again
    once they were locked, so that one extended in between stays. They are removed by their place in the table, which
    spares a search for each; one that an operator changed in that moment has another place, and stays for the next
    run. Only what was removed is recorded; the trigger, which records what nobody else did, looks at the end of the
    whole statement.
    """
    place: ColumnElement[Any] = literal_column("sessions.ctid")
    expired = _expired(now(), place).order_by(sessions.c.cleanup_at).with_for_update(skip_locked=True)
    places = any_(func.array(expired.scalar_subquery()))
    removed = delete(sessions).where(place == places).returning(*sessions.c).cte("removed")
    recorded = insert_ends("postgresql", end_events(removed, *_HOW)).cte("recorded")
    last = func.max(removed.c.cleanup_at, type_=UtcDateTime()).label("last")
    return select(func.count().label("removed"), last).select_from(removed).add_cte(recorded)


def moment() -> Select[datetime]:
    """Read the moment that the next statements ask about."""
    return select(now())


@cache
def count_expired() -> Select[int, Any]:
    """On SQLite: read how many had expired at that ``moment``, and the last ``cleanup_at`` among them."""
    expired = _expired_then().subquery("expired")
    last = func.max(expired.c.cleanup_at, type_=UtcDateTime()).label("last")
    return select(func.count().label("removed"), last).select_from(expired)


@cache
def record_expired() -> Insert:
    """On SQLite: record the ends of what had expired at that ``moment``."""
    expired = _expired_then().subquery("expired")
    # Without a WHERE, SQLite would read the ON of the conflict clause as that of a join.
    return insert_ends("sqlite", end_events(expired, *_HOW).where(expired.c.session_digest.is_not(None)))


@cache
def remove_expired() -> Delete:
    """On SQLite: remove what was recorded."""
    expired = select(_expired_then().subquery("expired").c.session_digest)
    return delete(sessions).where(sessions.c.session_digest.in_(expired))


def _expired_then() -> Select[Any]:
    """The order leaves no choice which ones, and the index has it; on Postgres it would have to be sorted."""
    return _expired(_MOMENT, sessions).order_by(sessions.c.cleanup_at, sessions.c.session_digest)


def _expired(moment: ColumnElement[datetime], what: ColumnElement[Any] | FromClause) -> Select[Any]:
    """At most ``limit`` sessions from ``from_cleanup_at`` on."""
    return (
        select(what)
        .where(
            sessions.c.cleanup_at >= bindparam("from_cleanup_at", type_=UtcDateTime()),
            sessions.c.cleanup_at <= moment,
            ~live(moment),
        )
        .limit(bindparam("limit"))
    )
