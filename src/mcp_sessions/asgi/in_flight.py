"""The gate that every request passes, so that a shutdown can wait for those inside and let nobody else in."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta


class GateClosedError(Exception):
    """The worker is shutting down."""

    def __init__(self) -> None:
        super().__init__("the worker is shutting down")


class Gate:
    """Counts who is inside."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """Be inside for a while.

        Raises:
            GateClosedError: nobody is let in any more.

        """
        self.require_open()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    def require_open(self) -> None:
        """Raise ``GateClosedError`` where nobody is let in any more."""
        if self._closed:
            raise GateClosedError

    def close(self) -> None:
        """Let nobody in from now on."""
        self._closed = True

    async def wait_until_empty(self, patience: timedelta) -> int:
        """Wait until everybody has left, but no longer than that; return how many are still inside."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), patience.total_seconds())
        return self._inside
