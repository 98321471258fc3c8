"""MCP sessions in SQL: durable, bound to their owner, served by any worker, and open to an auditor's questions.

``DurableSessions`` is the one line for an MCP server; ``SessionManager`` is for those who keep sessions in code of
their own, ``Owner`` and ``Session`` are what it speaks of. Only who asks for the first imports what serves HTTP, and
only who asks for the second SQLAlchemy: the command line explains itself without either.
"""

import importlib
from typing import TYPE_CHECKING

from mcp_sessions.current import current_session
from mcp_sessions.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseHeldError,
    DatabaseRefusedError,
    DatabaseUnavailableError,
    EncryptionError,
    InvalidInputError,
    InvalidOwnerError,
    InvalidSessionIdError,
    ManagerClosedError,
    ManagerElsewhereError,
    McpSessionsError,
    OverloadedError,
    SchemaRevisionError,
    SessionEndedError,
    SessionExistsError,
    StateLimitError,
)
from mcp_sessions.records.events import EventFilter, EventPage, SessionEvent
from mcp_sessions.records.sessions import TRUSTED, Handshake, Owner, Session, SessionPage, Trusted
from mcp_sessions.records.statistics import Statistics

if TYPE_CHECKING:
    from mcp_sessions.asgi import DurableSessions
    from mcp_sessions.manager import SessionManager
    from mcp_sessions.settings import Settings
    from mcp_sessions.state import SessionState
else:
    # Starlette, SQLAlchemy and pydantic take their time.
    _LOADED_ON_USE = {
        "DurableSessions": "mcp_sessions.asgi",
        "SessionManager": "mcp_sessions.manager",
        "SessionState": "mcp_sessions.state",
        "Settings": "mcp_sessions.settings",
    }

    def __getattr__(name: str) -> object:
        if name not in _LOADED_ON_USE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LOADED_ON_USE[name]), name)


__all__ = [
    "TRUSTED",
    "ConfigurationError",
    "DatabaseError",
    "DatabaseHeldError",
    "DatabaseRefusedError",
    "DatabaseUnavailableError",
    "DurableSessions",
    "EncryptionError",
    "EventFilter",
    "EventPage",
    "Handshake",
    "InvalidInputError",
    "InvalidOwnerError",
    "InvalidSessionIdError",
    "ManagerClosedError",
    "ManagerElsewhereError",
    "McpSessionsError",
    "OverloadedError",
    "Owner",
    "SchemaRevisionError",
    "Session",
    "SessionEndedError",
    "SessionEvent",
    "SessionExistsError",
    "SessionManager",
    "SessionPage",
    "SessionState",
    "Settings",
    "StateLimitError",
    "Statistics",
    "Trusted",
    "current_session",
]
