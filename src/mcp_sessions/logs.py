"""Structured logs through the standard ``logging``: a sentence for people, and the same facts as fields.

Fields are attributes of the log record (``extra``): ``operation``, ``session`` (the first 12 hex digits of the
digest), ``tenant_id``, ``client_id`` and counts. A session id never gets here: the functions take digests. Text of a
foreign hand comes without control characters, so that one message stays one line and steers no terminal.

The logger has no handler, not even one that does nothing: where nobody has set up logging, Python itself then prints
warnings and errors to standard error, and nobody has to wonder about a 503. See ``docs/how-to/log.md``.
"""

import logging
from typing import Any

from mcp_sessions.digests import short_digest
from mcp_sessions.records.sessions import Owner, Session

logger = logging.getLogger("mcp_sessions")


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
    texts = {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}
    facts = {"operation": operation, **texts}
    logger.log(level, message, facts, extra=facts)


def printable(text: str) -> str:
    """Return text of a foreign hand without control characters: it must not steer a terminal or forge a line."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def be_heard() -> None:
    """Undo what ``logging.config`` does to every logger that it is not told of, unless it is told to leave them."""
    logger.disabled = False
