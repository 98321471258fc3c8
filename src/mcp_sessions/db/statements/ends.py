"""The end of sessions by those entitled to it, on Postgres in one statement: found, recorded, removed."""

from functools import cache
from typing import Any

from sqlalchemy import Select, delete, literal, select
from sqlalchemy.dialects.postgresql import distinct_on

from mcp_sessions.db.expressions import GIVEN_ASKED_ENDS
from mcp_sessions.db.statements.events import end_events, insert_ends
from mcp_sessions.db.statements.sessions import SESSION_COLUMNS, kept_live, live, owned_as_given
from mcp_sessions.db.tables import sessions


@cache
def end_sessions() -> Select[Any]:
    """End the live sessions that these wishes are entitled to; of several for one session, the first ends it.

    Reads every live session that was meant, with the ``place`` of the wish that ended it, if any did; those that
    another transaction has locked are left out. The trigger,
    which records a removal that nobody else did, looks at the end of the whole statement.
    """
    given = GIVEN_ASKED_ENDS.rows("postgresql")
    meant = sessions.c.session_digest.in_(select(given.c.session_digest))
    found = kept_live(select(*SESSION_COLUMNS).where(meant, live()), if_free=True)
    ended = (
        select(given.c.place, given.c.reason, given.c.actor, *found.c)
        .join_from(given, found, given.c.session_digest == found.c.session_digest)
        .where(owned_as_given(given, found))
        .ext(distinct_on(found.c.session_digest))
        .order_by(found.c.session_digest, given.c.place)
        .cte("ended")
    )
    events = end_events(ended, literal("terminated"), ended.c.reason, ended.c.actor, ended.c.moment)
    recorded = insert_ends("postgresql", events).cte("recorded")
    removed = delete(sessions).where(sessions.c.session_digest.in_(select(ended.c.session_digest))).cte("removed")
    by_whom = found.c.session_digest == ended.c.session_digest
    columns = (found.c[column.name] for column in SESSION_COLUMNS)
    return select(*columns, ended.c.place).outerjoin_from(found, ended, by_whom).add_cte(recorded, removed)
