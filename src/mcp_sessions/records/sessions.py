"""What a session is: plain, frozen records without any knowledge of where they are stored."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from mcp_sessions.digests import short_digest
from mcp_sessions.errors import InvalidInputError, InvalidOwnerError
from mcp_sessions.validation import storable_text

OWNER_TEXT_MAX_LENGTH = 512


OWNER_TEXT_MAX_BYTES = 1024
"""An entry of an index on Postgres has at most 2,704 bytes, and the longest of ours holds two parts of an owner."""


HANDSHAKE_MAX_LENGTH = 2**20


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a session belongs to: the verified principal of a request, compared as a whole.

    Every part is optional, and an absent part equals only an absent part. ``Owner()`` is the anonymous owner.
    ``issuer`` and ``subject`` are the ``iss`` and ``sub`` claims of the verified token; the token itself is no part
    of the owner, because tokens rotate.

    Raises:
        InvalidOwnerError: a part is empty, longer than 512 characters or 1,024 bytes of UTF-8, or holds NUL or a
            lone surrogate.
    """

    tenant_id: str | None = None
    client_id: str | None = None
    issuer: str | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        for name in OWNER_FIELDS:
            if (value := getattr(self, name)) is not None:
                text = storable_text(name, value, OWNER_TEXT_MAX_LENGTH, InvalidOwnerError)
                if (size := len(text.encode())) > OWNER_TEXT_MAX_BYTES:
                    raise InvalidOwnerError(
                        f"{name} must have at most {OWNER_TEXT_MAX_BYTES} bytes in UTF-8, not {size}"
                    )


class Trusted(Enum):
    """The type of ``TRUSTED``."""

    TRUSTED = "trusted"


TRUSTED: Final = Trusted.TRUSTED
"""Stands in place of an owner for trusted code that holds the id: whoever owns the session, its owner is not checked.

It is a word of its own, so that an owner that somebody failed to tell (``None``) is never taken for it.
"""


OWNER_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Owner))


def stored_owner(*parts: str | None) -> Owner:
    """Return the owner of these parts, in the order of ``OWNER_FIELDS``, unchecked: a database has them so.

    To check the text of every row anew would cost as much as all else that becomes of it.
    """
    owner = object.__new__(Owner)
    for name, part in zip(OWNER_FIELDS, parts, strict=True):
        object.__setattr__(owner, name, part)
    return owner


def checked_owner(owner: Owner) -> Owner:
    """Return the owner if it is one.

    Raises:
        InvalidOwnerError: it is something else, such as ``None`` or a mapping.
    """
    if not isinstance(owner, Owner):
        raise InvalidOwnerError(f"owner must be an Owner (the anonymous one is Owner()), not {type(owner).__name__}")
    return owner


def checked_claim(owner: Owner | Trusted) -> Owner | Trusted:
    """Return what says whose a session must be, if it is an owner or ``TRUSTED``.

    Raises:
        InvalidOwnerError: it is something else, such as ``None``.
    """
    return owner if owner is TRUSTED else checked_owner(owner)


def parts_of(owner: Owner) -> tuple[str | None, ...]:
    """Return the parts of an owner, in the order of ``OWNER_FIELDS``."""
    return owner.tenant_id, owner.client_id, owner.issuer, owner.subject


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it stands in the database; all times are aware and in UTC, taken from the database's clock.

    ``last_activity_at`` is the last *recorded* activity: between two records up to one touch interval may pass.
    ``expires_at`` is the moment from which the session is never valid again, unless activity is recorded before.
    ``settings_version`` is that of what its client has set, 0 for nothing: known of a session that is used, not of one
    that is listed or ended, and no part of what makes two of them equal.
    """

    digest: bytes
    owner: Owner
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime
    settings_version: int = field(default=0, compare=False, repr=False)

    @property
    def short_digest(self) -> str:
        """The first 12 hex digits of the digest, as logs show it."""
        return short_digest(self.digest)


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a worker that did not open a session replays to restore it.

    ``initialize`` is the body of the client's ``initialize`` request, JSON text; ``protocol_version`` is what the
    server answered with.

    Raises:
        InvalidInputError: a part is empty, longer than a megabyte, or holds NUL or a lone surrogate.
    """

    protocol_version: str
    initialize: str

    def __post_init__(self) -> None:
        for name in ("protocol_version", "initialize"):
            storable_text(name, getattr(self, name), HANDSHAKE_MAX_LENGTH, InvalidInputError)


@dataclass(frozen=True, slots=True)
class StoredHandshake:
    """A handshake as it is stored: ``initialize`` as it is, or sealed with the key that ``key_id`` names."""

    protocol_version: str
    initialize: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be stored: its digest, its owner and, where it was opened over HTTP, its handshake."""

    digest: bytes
    owner: Owner
    handshake: StoredHandshake | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """One page of live sessions, newest first, and the cursor of the next page (``None`` on the last one)."""

    sessions: tuple[Session, ...]
    next_cursor: str | None

    def __iter__(self) -> Iterator[Session]:
        return iter(self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """When a session expires and how often its activity is recorded.

    A session never expires sooner than ``idle`` after its last activity and at most one ``touch_interval`` later;
    it never lives longer than ``absolute`` where that is set. A ``touch_interval`` of zero records every use.
    """

    idle: timedelta
    absolute: timedelta | None
    touch_interval: timedelta
