"""The size of batches that remove rows, which follows the time that they take.

Others wait while a batch holds its locks, and on SQLite every writer does. So each batch takes more rows than the last
one while they are quick, and fewer as soon as one was slow.
"""

import time

BATCH_SECONDS = 0.1
"""How long the transaction of one batch may take; where one took longer, the next batch is smaller."""

_FIRST_BATCH = 100


class Pace:
    """The size of the next batch: small at first, growing to ``most`` while batches take little time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._began_at = 0.0
        self.size = min(most, _FIRST_BATCH)

    def begin(self) -> None:
        """Note that a batch begins: its transaction has its turn."""
        self._began_at = time.monotonic()

    def end(self) -> None:
        """Note that it was committed."""
        self.adapt(time.monotonic() - self._began_at)

    def adapt(self, seconds: float) -> None:
        """Choose the next size after a batch of this one took so long; it at most doubles."""
        wanted = int(self.size * min(2.0, BATCH_SECONDS / seconds)) if seconds > 0 else 2 * self.size
        self.size = max(1, min(self._most, wanted))
