"""Sessions that are opened for another reason than the usual: the trail's event of the creation tells it.

The trigger that records a creation leaves an event alone that is there already. So the moment of the creation is asked
for first, then the event is recorded, and then the session is stored, all in one transaction.
"""

from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from mcp_sessions.db.expressions import GIVEN_LIVES, insert_into
from mcp_sessions.db.statements.sessions import expiry_of, new_sessions
from mcp_sessions.db.tables import session_events, sessions
from mcp_sessions.db.types import UtcDateTime
from mcp_sessions.records.sessions import OWNER_FIELDS

_MOMENT = bindparam("moment", type_=UtcDateTime())


@cache
def moment_of_creation(dialect: str) -> Select[Any]:
    """Read the moment at which a new session would be created now."""
    return select(new_sessions(dialect).c.created_at)


@cache
def record_creation(dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Record that a session is created at that moment, and why."""
    recorded = insert_into(session_events, dialect).values(
        occurred_at=_MOMENT,
        kind=literal("created"),
        reason=bindparam("reason"),
        actor=literal("owner"),
        session_digest=bindparam("session_digest"),
        **{name: bindparam(name) for name in OWNER_FIELDS},
        session_created_at=_MOMENT,
        is_end=literal(value=False),
    )
    return recorded.on_conflict_do_nothing(index_elements=["session_digest", "session_created_at", "is_end"])


@cache
def insert_session(dialect: str, *, bounded: bool) -> ReturningInsert[Any]:
    """Store a session that is created at that moment; no row where the digest is taken."""
    expiry = expiry_of(_MOMENT, _MOMENT, bounded=bounded)
    stored = insert_into(sessions, dialect).values(
        session_digest=bindparam("session_digest"),
        **{name: bindparam(name) for name in OWNER_FIELDS},
        created_at=_MOMENT,
        last_activity_at=_MOMENT,
        expires_at=expiry,
        cleanup_at=expiry,
    )
    return stored.on_conflict_do_nothing(index_elements=["session_digest"]).returning(sessions.c.session_digest)


@cache
def created_for(dialect: str) -> Select[bytes]:
    """Read which of the given lives began for a reason."""
    given = GIVEN_LIVES.rows(dialect)
    began = and_(
        session_events.c.session_digest == given.c.session_digest,
        session_events.c.session_created_at == given.c.session_created_at,
        session_events.c.is_end.is_(False),
    )
    return (
        select(given.c.session_digest)
        .join_from(given, session_events, began)
        .where(session_events.c.reason == bindparam("reason"))
    )
