"""The session of the request that is being served, for code inside the app: set around each request, read anywhere.

Both SDKs run a handler in the context of the request that it answers, in whichever task that is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from mcp_sessions.records.sessions import Session


class Current(NamedTuple):
    """The session of a request, and the id that the app knows its own session by in this process."""

    session: Session
    app_session_id: str


_current: ContextVar[Current | None] = ContextVar("mcp_sessions_current", default=None)


def current() -> Current | None:
    """Return the session of the request that is being served here; None outside of requests that have one."""
    return _current.get()


@contextmanager
def serving(session: Session, app_session_id: bytes) -> Iterator[None]:
    """Make a session the current one."""
    token = _current.set(Current(session, app_session_id.decode("latin-1")))
    try:
        yield
    finally:
        _current.reset(token)


def current_session(ctx: object = None) -> Session | None:
    """Return the session of the request that a handler answers, or None: newer revisions have none, nor have pipes.

    Args:
        ctx: the ``Context`` that the SDK gives the handler, of ``MCPServer`` or of FastMCP. It is not needed, and
            says in the handler where the session comes from.
    """
    del ctx
    found = _current.get()
    return None if found is None else found.session
