"""Reads of SQLite in the event loop's own thread, as long as they are quick.

A row that is found by its key takes a few microseconds, and to have another thread look for it takes several times as
long. In WAL mode a read waits for no lock; but it may wait for a disk, or be one for many callers, and everybody else
waits with it. So where reads have become slow, the connection's own thread does them for a while.
"""

import time
from collections.abc import Sequence
from typing import Any

import aiosqlite

_LONGEST_SECONDS = 0.00025
"""On the average: a single long one says that the machine is busy, not that the disk is slow."""

_AWAY_SECONDS = 10.0
_LAST_ONES = 64


class QuickReads:
    """Runs one statement that only reads on a connection, for one caller at a time."""

    def __init__(self, connection: aiosqlite.Connection, text: str) -> None:
        self._here = connection._conn  # noqa: SLF001 - aiosqlite itself offers it in its own thread only
        self._in_thread = connection
        self._text = text
        self._usual_seconds = 0.0
        self._away_until = 0.0

    async def fetch(self, arguments: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """Return the rows as the driver gives them."""
        began = time.monotonic()
        if began < self._away_until:
            return list(await self._in_thread.execute_fetchall(self._text, arguments))
        rows = self._here.execute(self._text, arguments).fetchall()
        ended = time.monotonic()
        self._usual_seconds += (ended - began - self._usual_seconds) / _LAST_ONES
        if self._usual_seconds > _LONGEST_SECONDS:
            self._usual_seconds, self._away_until = 0.0, ended + _AWAY_SECONDS
        return rows
