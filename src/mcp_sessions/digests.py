"""The session id, a secret that opens its session, and its digest, which is all that is stored and logged.

An id is minted here and turned into its digest here; everything below the manager handles digests only.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable

from mcp_sessions.errors import InvalidInputError, InvalidSessionIdError

SESSION_ID_MAX_LENGTH = 256


DIGEST_LENGTH = 32


SHORT_DIGEST_LENGTH = 12


_VISIBLE_ASCII = re.compile(rf"[\x21-\x7e]{{1,{SESSION_ID_MAX_LENGTH}}}")


_HEX_DIGITS = re.compile(rf"[0-9a-fA-F]{{1,{2 * DIGEST_LENGTH}}}")


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


def is_digest_prefix(text: object) -> bool:
    """Tell whether a text can be a digest, or the beginning of one: 1 to 64 hex digits."""
    return _is_text_like(_HEX_DIGITS, text)


def checked_digest_prefix(prefix: str) -> str:
    """Return the beginning of a digest, in lower case, if it can be one.

    Raises:
        InvalidInputError: it is not 1 to 64 hex digits.
    """
    if not is_digest_prefix(prefix):
        raise InvalidInputError("a digest, or the beginning of one, is 1 to 64 hex digits")
    return prefix.lower()


def digests_from(prefix: str) -> tuple[bytes, bytes]:
    """Return the lowest and the highest digest that begin with these hex digits."""
    width = 2 * DIGEST_LENGTH
    return bytes.fromhex(prefix.ljust(width, "0")), bytes.fromhex(prefix.ljust(width, "f"))
