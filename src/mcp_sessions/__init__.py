"""MCP sessions in SQL: durable, bound to their owner, served by any worker, and open to an auditor's questions.

``SessionManager`` is where to start; ``Owner`` and ``Session`` are what it speaks of.
"""

from mcp_sessions.audit import EventFilter, EventPage, SessionEvent, Statistics
from mcp_sessions.errors import (
    ConfigurationError,
    DatabaseError,
    DatabaseRefusedError,
    DatabaseUnavailableError,
    InvalidInputError,
    InvalidOwnerError,
    InvalidSessionIdError,
    ManagerClosedError,
    McpSessionsError,
    OverloadedError,
    SchemaRevisionError,
    SessionExistsError,
)
from mcp_sessions.manager import SessionManager
from mcp_sessions.model import Handshake, Owner, Session, SessionPage
from mcp_sessions.settings import Settings

__all__ = [
    "ConfigurationError",
    "DatabaseError",
    "DatabaseRefusedError",
    "DatabaseUnavailableError",
    "EventFilter",
    "EventPage",
    "Handshake",
    "InvalidInputError",
    "InvalidOwnerError",
    "InvalidSessionIdError",
    "ManagerClosedError",
    "McpSessionsError",
    "OverloadedError",
    "Owner",
    "SchemaRevisionError",
    "Session",
    "SessionEvent",
    "SessionExistsError",
    "SessionManager",
    "SessionPage",
    "Settings",
    "Statistics",
]
