"""What the audit trail tells, as plain, frozen records: events, which of them are asked for, and pages of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from mcp_sessions.digests import checked_digest_prefix, short_digest
from mcp_sessions.errors import InvalidInputError
from mcp_sessions.records.sessions import Owner

EventKind = Literal["created", "terminated", "revoked", "expired", "cleared", "deleted", "refused", "state_read"]
"""What an event of the audit trail tells: that a session was ``created``; that it ended, by itself
(``terminated``), with all of a tenant, a client or a user (``revoked``), by a timeout (``expired``), with all sessions
there were (``cleared``), by SQL outside the application (``deleted``); that a wrong owner's use was ``refused``; or
that an operator was shown the values of its state (``state_read``)."""


Actor = Literal["owner", "application", "operator", "cleanup", "database", "foreign"]
"""Who did it: the session's ``owner``, trusted code of the ``application``, an ``operator`` at the command line, the
``cleanup``, somebody with SQL (``database``), or, of a refused use, a ``foreign`` principal."""


CREATED, CREATED_BY_TOOL = "created", "created by a tool"
"""Why a session was created, as the trail has it: for an ``Mcp-Session-Id``, or for a handle that a tool gave out."""


EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


END_KINDS: tuple[EventKind, ...] = ("terminated", "revoked", "expired", "cleared", "deleted")
"""The kinds of events that end a session."""


ACTORS: tuple[Actor, ...] = get_args(Actor)


_MAY_END: tuple[Actor, ...] = ("owner", "application", "operator")


def checked_actor(actor: str) -> Actor:
    """Return the actor if it is one that the manager ends sessions for.

    Raises:
        InvalidInputError: the actor is none of ``owner``, ``application`` and ``operator``.
    """
    for known in _MAY_END:
        if actor == known:
            return known
    raise InvalidInputError(f"actor must be 'owner', 'application' or 'operator', not {actor!r}")


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
