"""The numbers that an operator looks at first, as plain, frozen records."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mcp_sessions.records.events import EventKind


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in a stretch of time.

    ``ended`` has every kind of end; ``average_life_seconds`` is that of the sessions that ended, None where none did.
    """

    opened: int
    ended: Mapping[EventKind, int]
    refused: int
    average_life_seconds: float | None


@dataclass(frozen=True, slots=True)
class HourOfSessions:
    """What was opened and ended in one hour, and how many sessions there were when it was over."""

    ends_at: datetime
    opened: int
    ended: int
    open_at_end: int


@dataclass(frozen=True, slots=True)
class CleanupRun:
    """A run of the cleanup; ``ended_at`` is None while it runs, ``error`` is None unless it failed."""

    worker: str
    started_at: datetime
    ended_at: datetime | None
    sessions_removed: int
    events_removed: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers that an operator looks at first, by the database's clock.

    ``expired`` counts sessions that are not live any more and wait for the cleanup. ``hours`` are the last 24, the
    oldest first; in ``tenants`` are those with the most live sessions, and how many. ``live_by_handle`` are those of
    the live ones that a tool created for a handle.
    """

    at: datetime
    live: int
    expired: int
    last_hour: Activity
    last_day: Activity
    hours: tuple[HourOfSessions, ...]
    tenants: tuple[tuple[str | None, int], ...]
    last_cleanup: CleanupRun | None
    live_by_handle: int = 0
