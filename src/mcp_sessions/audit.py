"""What the audit trail tells, as plain, frozen records: events, which are asked for, pages of them, and numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mcp_sessions.errors import InvalidInputError
from mcp_sessions.model import (
    EVENT_KINDS,
    Actor,
    EventKind,
    Owner,
    checked_digest_prefix,
    short_digest,
)


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something that happened to a session; ``docs/reference/audit.md`` tells what each part means.

    ``lifetime_seconds`` is how long a session lived that ended; ``claimed`` is the owner that a refused use came with.
    """

    event_id: int
    occurred_at: datetime
    kind: EventKind
    reason: str
    actor: Actor
    digest: bytes
    owner: Owner
    session_created_at: datetime
    lifetime_seconds: float | None
    claimed: Owner | None

    @property
    def short_digest(self) -> str:
        """The first 12 hex digits of the session's digest, as logs show it."""
        return short_digest(self.digest)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for: those that fit every part given.

    Args:
        tenant_id: the session's tenant; the other parts of its owner likewise.
        kinds: any of these kinds; all where there is none.
        since: events from this moment on; a duration counts back from now, by the database's clock.
        until: events before this moment, or before so long ago.
        digest_prefix: hex digits that the session's digest begins with.

    Raises:
        InvalidInputError: a part cannot be right.
    """

    tenant_id: str | None = None
    client_id: str | None = None
    issuer: str | None = None
    subject: str | None = None
    kinds: tuple[EventKind, ...] = ()
    since: datetime | timedelta | None = None
    until: datetime | timedelta | None = None
    digest_prefix: str | None = None

    def __post_init__(self) -> None:
        Owner(self.tenant_id, self.client_id, self.issuer, self.subject)
        if unknown := sorted(set(self.kinds) - set(EVENT_KINDS)):
            raise InvalidInputError(f"there is no kind {', '.join(unknown)}; the kinds are {', '.join(EVENT_KINDS)}")
        for name in ("since", "until"):
            _check_moment(name, getattr(self, name))
        if self.digest_prefix is not None:
            checked_digest_prefix(self.digest_prefix)


_LONGEST_AGO = timedelta(days=36500)


def _check_moment(name: str, moment: datetime | timedelta | None) -> None:
    if isinstance(moment, timedelta) and not timedelta(0) <= moment <= _LONGEST_AGO:
        raise InvalidInputError(f"{name} must not be negative, nor more than {_LONGEST_AGO.days} days ago")
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise InvalidInputError(f"{name} must have a time zone: without one it does not name a moment")
        try:
            moment.astimezone(UTC)
        except OverflowError:
            raise InvalidInputError(f"{name} is out of the calendar") from None


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of events, newest first, and the cursor of the next page (``None`` on the last one)."""

    events: tuple[SessionEvent, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[SessionEvent]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


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
    oldest first; in ``tenants`` are those with the most live sessions, and how many.
    """

    at: datetime
    live: int
    expired: int
    last_hour: Activity
    last_day: Activity
    hours: tuple[HourOfSessions, ...]
    tenants: tuple[tuple[str | None, int], ...]
    last_cleanup: CleanupRun | None
