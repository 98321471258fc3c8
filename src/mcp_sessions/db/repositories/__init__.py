"""Statements run and rows mapped. Every method is synchronous and takes the connection of its unit of work."""

from mcp_sessions.db.repositories.cleanup_runs import CleanupRunRepository
from mcp_sessions.db.repositories.hot import HotSessionRepository
from mcp_sessions.db.repositories.sessions import (
    BEGINNING_OF_TIME,
    EndedBatch,
    FoundSession,
    SessionRepository,
    Swept,
    Use,
)

__all__ = [
    "BEGINNING_OF_TIME",
    "CleanupRunRepository",
    "EndedBatch",
    "FoundSession",
    "HotSessionRepository",
    "SessionRepository",
    "Swept",
    "Use",
]
