"""Requests in flight: counted, so that a shutdown can wait for them and take no more, and each can be cut off."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from mcp_sessions.asgi.responses import Response


class ShuttingDownError(Exception):
    """The worker is shutting down."""

    def __init__(self) -> None:
        super().__init__("the worker is shutting down")


class CutError(Exception):
    """A request in flight was cut off: its session ended, the worker shuts down, or a bound of the session's is met."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass(eq=False, slots=True)
class InFlight:
    """One request or open stream in flight, and the means to cut it off."""

    is_stream: bool
    timeout: asyncio.Timeout
    response: Response | None = None

    def cut(self, response: Response) -> None:
        """End it now, with this response if none has begun."""
        if self.response is None:
            self.response = response
            self.timeout.reschedule(asyncio.get_running_loop().time())


class RequestsInFlight:
    """Counts the requests in flight on one worker."""

    def __init__(self) -> None:
        self._count = 0
        self._closed = False
        self._none_left = asyncio.Event()
        self._none_left.set()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request for as long as a block runs.

        Raises:
            ShuttingDownError: no request is taken any more.

        """
        self.require_open()
        self._count += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none_left.set()

    def require_open(self) -> None:
        """Raise ``ShuttingDownError`` where no request is taken any more."""
        if self._closed:
            raise ShuttingDownError

    def close(self) -> None:
        """Take no request from now on."""
        self._closed = True

    async def wait_until_none(self, patience: timedelta) -> int:
        """Wait until none is in flight, but no longer than that; return how many still are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience.total_seconds()):
                await self._none_left.wait()
        return self._count
