"""Something that one process opens once and shares: kept open by a task, so that whoever asks first may come and go."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from mcp_sessions.settings import Settings

T = TypeVar("T")


class Shared(Generic[T]):
    """What was opened with some settings, for all that ask."""

    def __init__(self, opening: AbstractAsyncContextManager[T], settings: Settings) -> None:
        self.settings = settings
        loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[T] = loop.create_future()
        self._task = loop.create_task(self._keep_open(opening), name="mcp-sessions shared manager")

    @property
    def is_over(self) -> bool:
        """Whether it failed to open, was closed, or ended with its event loop: then the next caller needs another."""
        return self._task.done() or self._task.get_loop().is_closed()

    async def opened(self) -> T:
        """Return it once it is open, or raise what kept it from opening; may be cancelled."""
        either: list[asyncio.Future[Any]] = [self._opened, self._task]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            self._task.result()
        return self._opened.result()

    async def close(self) -> None:
        """Close it, and return once that is done."""
        self._closing.set()
        await asyncio.wait([self._task])

    async def _keep_open(self, opening: AbstractAsyncContextManager[T]) -> None:
        async with opening as opened:
            self._opened.set_result(opened)
            await self._closing.wait()
