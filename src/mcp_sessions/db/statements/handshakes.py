"""Every statement on recorded handshakes."""

from functools import cache
from typing import Any

from sqlalchemy import Insert, Select, insert, select

from mcp_sessions.db.expressions import GIVEN_DIGESTS, GIVEN_HANDSHAKES, insert_into
from mcp_sessions.db.statements.sessions import insert_sessions
from mcp_sessions.db.tables import session_handshakes

_COLUMNS = [column.name for column in session_handshakes.columns]


def insert_handshakes() -> Insert:
    """Record handshakes, in the transaction that stores their sessions."""
    return insert(session_handshakes)


@cache
def insert_with_handshakes(*, bounded: bool) -> Select[bytes]:
    """On Postgres: insert new sessions and the handshakes of those that were not taken; read what was stored.

    A handshake that is there already is of an earlier life, left by somebody who had switched the foreign keys off.
    """
    stored = insert_sessions("postgresql", bounded=bounded).cte("stored")
    given = GIVEN_HANDSHAKES.rows("postgresql")
    theirs = select(*(given.c[name] for name in _COLUMNS)).join_from(
        given, stored, given.c.session_digest == stored.c.session_digest
    )
    inserted = insert_into(session_handshakes, "postgresql").from_select(_COLUMNS, theirs)
    recorded = inserted.on_conflict_do_update(
        index_elements=[session_handshakes.c.session_digest],
        set_={name: inserted.excluded[name] for name in _COLUMNS},
    ).cte("recorded")
    return select(stored.c.session_digest).add_cte(recorded)


@cache
def find_handshakes(dialect: str) -> Select[Any]:
    """Read handshakes by the digests of their sessions."""
    given = GIVEN_DIGESTS.rows(dialect)
    return select(
        session_handshakes.c.session_digest,
        session_handshakes.c.protocol_version,
        session_handshakes.c.initialize,
        session_handshakes.c.key_id,
    ).join_from(given, session_handshakes, given.c.session_digest == session_handshakes.c.session_digest)
