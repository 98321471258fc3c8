"""What can be stored and asked for: each check returns what it was given, or says what would be right."""

import re

from mcp_sessions.errors import InvalidInputError

REASON_MAX_LENGTH = 256


STATE_NAME_MAX_LENGTH = 256


LARGEST_PAGE = 1000


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable_text(name: str, value: object, max_length: int, error: type[InvalidInputError]) -> str:
    """Return the text if both databases can store it.

    Raises:
        InvalidInputError: it is no text, empty, longer than ``max_length`` characters, or holds NUL or a lone
            surrogate; as the ``error`` that is given.
    """
    """Return the text if both databases can store it.

    Raises:
        InvalidInputError: it is no text, empty, longer than ``max_length`` characters, or holds NUL or a lone
            surrogate; as the ``error`` that is given.
    """
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
    return storable_text("reason", reason, REASON_MAX_LENGTH, InvalidInputError)


def checked_limit(limit: int) -> int:
    """Return how many sessions are asked for at most, if that many can be.

    Raises:
        InvalidInputError: it is not a whole number from 1 to 1000.
    """
    if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
        raise InvalidInputError(f"limit must be a whole number from 1 to {LARGEST_PAGE}, not {limit!r:.40}")
    return limit
