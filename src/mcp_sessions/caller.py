"""Who calls: the owner that the HTTP layer told from a request, and the sessions that it serves, for code in the app.

Both SDKs run a handler in the context of the request that it answers. Requests of every revision have an owner.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from mcp_sessions.manager import SessionManager
from mcp_sessions.records.sessions import Owner


class Caller(NamedTuple):
    """The verified principal of a request, and the manager of the worker that serves it."""

    owner: Owner
    sessions: SessionManager


_caller: ContextVar[Caller | None] = ContextVar("mcp_sessions_caller", default=None)


def caller() -> Caller | None:
    """Return who calls; None where no ``DurableSessions`` stands around the app."""
    return _caller.get()


@contextmanager
def called_by(owner: Owner, sessions: SessionManager) -> Iterator[None]:
    """Say who calls."""
    token = _caller.set(Caller(owner, sessions))
    try:
        yield
    finally:
        _caller.reset(token)
