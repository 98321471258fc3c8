"""Cursors of pages ordered by time: opaque text that names the last row of a page, by its moment and its key."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from mcp_sessions.errors import InvalidInputError

Key = TypeVar("Key")


def cursor_behind(moment: datetime, key: bytes) -> str:
    """Return the cursor of the page that begins behind this row."""
    return base64.urlsafe_b64encode(moment.isoformat().encode() + b" " + key).decode()


def place_of(cursor: str, key_of: Callable[[bytes], Key], *, method: str) -> tuple[datetime, Key]:
    """Return the row that a cursor names; ``key_of`` reads its key and raises ``ValueError`` where it is none.

    Raises:
        InvalidInputError: the cursor is not one of this method's.
    """
    try:
        moment, _, key = base64.b64decode(cursor, altchars="-_", validate=True).partition(b" ")
        at = datetime.fromisoformat(moment.decode())
        if at.tzinfo is None:
            raise ValueError("no time zone")  # noqa: TRY301 - one answer for whatever is wrong
        return at.astimezone(UTC), key_of(key)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"the cursor is not the next_cursor of a page of {method}") from None
