"""Every statement on recorded handshakes."""

from functools import cache
from typing import Any

from sqlalchemy import Insert, Select, insert, select

from mcp_sessions.db.expressions import GIVEN_DIGESTS
from mcp_sessions.db.tables import session_handshakes


def insert_handshakes() -> Insert:
    """Record handshakes, in the transaction that stores their sessions."""
    return insert(session_handshakes)


@cache
def find_handshakes(dialect: str) -> Select[Any]:
    """Read handshakes by the digests of their sessions."""
    given = GIVEN_DIGESTS.rows(dialect)
    return select(
        session_handshakes.c.session_digest, session_handshakes.c.protocol_version, session_handshakes.c.initialize
    ).join_from(given, session_handshakes, given.c.session_digest == session_handshakes.c.session_digest)
