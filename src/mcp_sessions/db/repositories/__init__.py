"""Statements run and rows mapped. Every method is synchronous and takes the connection of its unit of work."""

from mcp_sessions.db.repositories.cleanup_runs import CleanupRunRepository
from mcp_sessions.db.repositories.events import EventRepository, Refusal
from mcp_sessions.db.repositories.hot import HotSessionRepository, hot_sessions
from mcp_sessions.db.repositories.messages import Message, MessageRepository, Outgoing, WorkerRepository
from mcp_sessions.db.repositories.sessions import (
    BEGINNING_OF_TIME,
    BulkEnd,
    End,
    FoundSession,
    SessionRepository,
    Swept,
    Use,
)
from mcp_sessions.db.repositories.state import Change, Entry, Life, Outcome, StateRepository, Stored, session_states
from mcp_sessions.db.repositories.statistics import StatisticsRepository

__all__ = [
    "BEGINNING_OF_TIME",
    "BulkEnd",
    "Change",
    "CleanupRunRepository",
    "End",
    "Entry",
    "EventRepository",
    "FoundSession",
    "HotSessionRepository",
    "Life",
    "Message",
    "MessageRepository",
    "Outcome",
    "Outgoing",
    "Refusal",
    "SessionRepository",
    "StateRepository",
    "StatisticsRepository",
    "Stored",
    "Swept",
    "Use",
    "WorkerRepository",
    "hot_sessions",
    "session_states",
]
