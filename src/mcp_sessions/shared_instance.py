"""Something that one process opens once and shares: kept open by a task, so that whoever asks first may come and go."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from mcp_sessions.loop_guard import LoopGuard
from mcp_sessions.settings import Settings

T = TypeVar("T")

_kept_open: "set[Shared[Any]]" = set()
"""All that is open. A fork takes it along: to collect it there would be to close what belongs to the parent."""


class Shared(Generic[T]):
    """What was opened with some settings, for all that ask."""

    def __init__(self, opening: AbstractAsyncContextManager[T], settings: Settings) -> None:
        self.settings = settings
        self._guard = LoopGuard()
        loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[T] = loop.create_future()
        self._task = loop.create_task(self._keep_open(opening), name="mcp-sessions shared manager")
        _kept_open.add(self)
        self._task.add_done_callback(self._closed)

    @property
    def is_over(self) -> bool:
        """Whether the next caller needs another.

        It failed to open, was closed, ended with its event loop, or belongs to the process that this one is a fork of.
        """
        return not self._guard.is_of_this_process or self._task.done() or self._task.get_loop().is_closed()

    async def opened(self) -> T:
        """Return it once it is open, or raise what kept it from opening; may be cancelled.

        Raises:
            ManagerElsewhereError: it is kept open by another event loop, which is still there.
        """
        self.require_here()
        either: list[asyncio.Future[Any]] = [self._opened, self._task]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.done():
            self._task.result()
        return self._opened.result()

    def require_here(self) -> None:
        """Raise ``ManagerElsewhereError`` where another event loop keeps it open."""
        self._guard.loop()

    async def close(self) -> None:
        """Close it, and return once that is done."""
        self._closing.set()
        await asyncio.wait([self._task])

    def _closed(self, _task: asyncio.Task[None]) -> None:
        _kept_open.discard(self)

    async def _keep_open(self, opening: AbstractAsyncContextManager[T]) -> None:
        async with opening as opened:
            self._opened.set_result(opened)
            await self._closing.wait()
