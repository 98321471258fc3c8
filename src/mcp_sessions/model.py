"""What a session is: plain, frozen records without any knowledge of where they are stored.

The session id is a secret that opens the session. It is minted here, checked here and turned into its digest here;
everything below the manager handles digests only.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from mcp_sessions.errors import InvalidInputError, InvalidOwnerError, InvalidSessionIdError

SESSION_ID_MAX_LENGTH = 256
OWNER_TEXT_MAX_LENGTH = 512
REASON_MAX_LENGTH = 256
SHORT_DIGEST_LENGTH = 12

_VISIBLE_ASCII = re.compile(rf"[\x21-\x7e]{{1,{SESSION_ID_MAX_LENGTH}}}")
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
    if not _VISIBLE_ASCII.fullmatch(session_id):
        raise InvalidSessionIdError(
            f"a session id has 1 to {SESSION_ID_MAX_LENGTH} visible ASCII characters (0x21 to 0x7E); "
            "the one given has not"
        )
    return hashlib.sha256(session_id.encode("ascii")).digest()


def short_digest(digest: bytes) -> str:
    """Return the first 12 hex digits of a digest: enough to find a session again, too little to guess anything."""
    return digest.hex()[:SHORT_DIGEST_LENGTH]


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


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a session belongs to: the verified principal of a request, compared as a whole.

    Every part is optional, and an absent part equals only an absent part. ``Owner()`` is the anonymous owner.
    ``issuer`` and ``subject`` are the ``iss`` and ``sub`` claims of the verified token; the token itself is no part
    of the owner, because tokens rotate.

    Raises:
        InvalidOwnerError: a part is empty, longer than 512 characters, or holds NUL or a lone surrogate.
    """

    tenant_id: str | None = None
    client_id: str | None = None
    issuer: str | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        for name in OWNER_FIELDS:
            if (value := getattr(self, name)) is not None:
                _storable_text(name, value, OWNER_TEXT_MAX_LENGTH, InvalidOwnerError)


OWNER_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Owner))


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
    """

    protocol_version: str
    initialize: str


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be stored: its digest, its owner and, where it was opened over HTTP, its handshake."""

    digest: bytes
    owner: Owner
    handshake: Handshake | None = None


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
