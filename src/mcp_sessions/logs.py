"""Structured logs through the standard ``logging``: a sentence for people, and the same facts as fields.

Fields are attributes of the log record (``extra``): ``operation``, ``session`` (the first 12 hex digits of the
digest), ``tenant_id``, ``client_id`` and counts. A session id never gets here: the functions take digests.
"""

import logging
from typing import Any

from mcp_sessions.model import Owner, Session, short_digest

logger = logging.getLogger("mcp_sessions")
logger.addHandler(logging.NullHandler())  # a library prints nothing where nobody has set up logging


def log_session(operation: str, message: str, digest: bytes, owner: Owner, **fields: Any) -> None:
    """Log at INFO what happened to one session."""
    if not logger.isEnabledFor(logging.INFO):
        return
    named = {"session": short_digest(digest), "tenant_id": owner.tenant_id, "client_id": owner.client_id}
    log(logging.INFO, operation, f"{message} (session %(session)s)", **named, **fields)


def log_expired_on_use(session: Session) -> None:
    """Log that somebody used a session that had expired already."""
    log_session("session_expired", "session expired, found on use", session.digest, session.owner)


def log(level: int, operation: str, message: str, **fields: Any) -> None:
    """Log a message that may name fields as ``%(name)s``, with the fields themselves."""
    facts = {"operation": operation, **fields}
    logger.log(level, message, facts, extra=facts)
