"""What a session is: plain, frozen records without any knowledge of where they are stored.

The session id is a secret that opens the session. It is minted here, checked here and turned into its digest here;
everything below the manager handles digests only.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, Literal, get_args

from mcp_sessions.errors import InvalidInputError, InvalidOwnerError, InvalidSessionIdError

SESSION_ID_MAX_LENGTH = 256
OWNER_TEXT_MAX_LENGTH = 512
OWNER_TEXT_MAX_BYTES = 1024
"""An entry of an index on Postgres has at most 2,704 bytes, and the longest of ours holds two parts of an owner."""

REASON_MAX_LENGTH = 256
HANDSHAKE_MAX_LENGTH = 2**20
DIGEST_LENGTH = 32
SHORT_DIGEST_LENGTH = 12
LARGEST_PAGE = 1000

_VISIBLE_ASCII = re.compile(rf"[\x21-\x7e]{{1,{SESSION_ID_MAX_LENGTH}}}")
_HEX_DIGITS = re.compile(rf"[0-9a-fA-F]{{1,{2 * DIGEST_LENGTH}}}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def mint_session_id() -> str:
    """Return a new session id: 256 random bits from the operating system, as 43 URL-safe characters.

    Source: MCP specification 2025-11-25, Transports, Session Management (globally unique, cryptographically secure,
    visible ASCII only).
    """
    return secrets.token_urlsafe(32)


def digest_of(session_id: str) -> bytes:
    """Return the digest of a session id: its SHA-256, 32 bytes, the only form in which it is stored or logged.

    Raises:
        InvalidSessionIdError: the id is not 1 to 256 characters of visible ASCII, 0x21 to 0x7E (MCP specification
            2025-11-25, Transports, Session Management).
    """
    if not _is_text_like(_VISIBLE_ASCII, session_id):
        raise InvalidSessionIdError(
            f"a session id is text of 1 to {SESSION_ID_MAX_LENGTH} visible ASCII characters (0x21 to 0x7E); "
            "the one given is not"
        )
    return hashlib.sha256(session_id.encode("ascii")).digest()


def short_digest(digest: bytes) -> str:
    """Return the first 12 hex digits of a digest: enough to find a session again, too little to guess anything."""
    return digest.hex()[:SHORT_DIGEST_LENGTH]


def _is_text_like(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _storable_text(name: str, value: object, max_length: int, error: type[InvalidInputError]) -> str:
    if not isinstance(value, str):
        raise error(f"{name} must be text, not {type(value).__name__}")
    if not 1 <= len(value) <= max_length:
        raise error(f"{name} must have 1 to {max_length} characters, not {len(value)}; leave it out if there is none")
    if bad := _UNSTORABLE.search(value):
        raise error(f"{name} must not hold U+{ord(bad.group()):04X}, at position {bad.start()}")
    return value


def checked_reason(reason: str) -> str:
    """Return the end reason if it can be stored.

    Raises:
        InvalidInputError: the reason is empty, longer than 256 characters, or holds NUL or a lone surrogate.
    """
    return _storable_text("reason", reason, REASON_MAX_LENGTH, InvalidInputError)


def checked_digest(digest: object) -> bytes:
    """Return the digest if it can be one.

    Raises:
        InvalidInputError: it is not 32 bytes.
    """
    if isinstance(digest, bytes) and len(digest) == DIGEST_LENGTH:
        return digest
    raise InvalidInputError(f"a digest is {DIGEST_LENGTH} bytes, the SHA-256 of a session id")


def checked_digests(digests: Iterable[object]) -> tuple[bytes, ...]:
    """Return the digests if all of them can be one, equal ones once.

    Raises:
        InvalidInputError: one of them is not 32 bytes.
    """
    return tuple(dict.fromkeys(map(checked_digest, digests)))


def checked_digest_prefix(prefix: str) -> str:
    """Return the beginning of a digest, in lower case, if it can be one.

    Raises:
        InvalidInputError: it is not 1 to 64 hex digits.
    """
    if not _is_text_like(_HEX_DIGITS, prefix):
        raise InvalidInputError("a digest, or the beginning of one, is 1 to 64 hex digits")
    return prefix.lower()


def checked_limit(limit: int) -> int:
    """Return how many sessions are asked for at most, if that many can be.

    Raises:
        InvalidInputError: it is not a whole number from 1 to 1000.
    """
    if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
        raise InvalidInputError(f"limit must be a whole number from 1 to {LARGEST_PAGE}, not {limit!r:.40}")
    return limit


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
                text = _storable_text(name, value, OWNER_TEXT_MAX_LENGTH, InvalidOwnerError)
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
    """

    digest: bytes
    owner: Owner
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime

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
            _storable_text(name, getattr(self, name), HANDSHAKE_MAX_LENGTH, InvalidInputError)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be stored: its digest, its owner and, where it was opened over HTTP, its handshake."""

    digest: bytes
    owner: Owner
    handshake: Handshake | None = None


EventKind = Literal["created", "terminated", "revoked", "expired", "cleared", "deleted", "refused"]
"""What an event of the audit trail tells: that a session was ``created``; that it ended, by itself
(``terminated``), with all of a tenant, a client or a user (``revoked``), by a timeout (``expired``), with all sessions
there were (``cleared``), by SQL outside the application (``deleted``); or that a wrong owner's use was ``refused``."""

Actor = Literal["owner", "application", "operator", "cleanup", "database", "foreign"]
"""Who did it: the session's ``owner``, trusted code of the ``application``, an ``operator`` at the command line, the
``cleanup``, somebody with SQL (``database``), or, of a refused use, a ``foreign`` principal."""

EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)
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
