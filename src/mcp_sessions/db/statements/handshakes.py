"""Every statement on recorded handshakes."""

from typing import Any

from sqlalchemy import Insert, Select, bindparam, insert, select

from mcp_sessions.db.tables import session_handshakes


def insert_handshakes() -> Insert:
    """Record handshakes, in the transaction that stores their sessions."""
    return insert(session_handshakes)


def find_handshake() -> Select[Any]:
    """Read the handshake of one session."""
    return select(session_handshakes.c.protocol_version, session_handshakes.c.initialize).where(
        session_handshakes.c.session_digest == bindparam("digest")
    )
