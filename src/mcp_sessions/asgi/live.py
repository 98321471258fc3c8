"""The app's own sessions on this worker: which ones it holds for which durable session, and what is in flight on them.

A worker holds them only as long as they are of use. An entry can be let go at any time that nothing is in flight on
it, because the next request restores it; so nothing here decides about the life of a durable session. Entries are kept
by digest, least recently used first. A restore runs once however many requests wait for it, in a task of its own: a
client that hangs up takes nobody with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mcp_sessions.asgi.answers import Answer
from mcp_sessions.asgi.types import Scope


class CutError(Exception):
    """A request in flight was cut off because its session ended, or because the worker shuts down."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


@dataclass(eq=False, slots=True)
class Use:
    """One request or open stream in flight, and the means to cut it off."""

    is_stream: bool
    timeout: asyncio.Timeout
    answer: Answer | None = None

    def cut(self, answer: Answer) -> None:
        """End it now, with this answer if none has begun."""
        if self.answer is None:
            self.answer = answer
            self.timeout.reschedule(asyncio.get_running_loop().time())


@dataclass(eq=False, slots=True)
class LiveSession:
    """The app's own session: its id in the app, and the scope of the last request that used it."""

    app_session_id: bytes
    scope: Scope
    last_used: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    uses: set[Use] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def in_use(self, scope: Scope, *, is_stream: bool) -> AsyncIterator[None]:
        """Hold the session while a request is in flight on it.

        Raises:
            CutError: the request was cut off.

        """
        self.scope = scope
        use = Use(is_stream, asyncio.timeout(None))
        try:
            async with use.timeout:
                self.uses.add(use)
                yield
        except TimeoutError:
            if use.answer is None:
                raise  # the app's own
            raise CutError(use.answer) from None
        finally:
            self.uses.discard(use)
            self.last_used = asyncio.get_running_loop().time()


class LiveSessions:
    """The registry of one worker."""

    def __init__(self, close: Callable[[LiveSession], Awaitable[None]], *, most_idle: int) -> None:
        self._close = close
        self._most_idle = most_idle
        self._live: dict[bytes, LiveSession] = {}
        self._restores: dict[bytes, asyncio.Task[LiveSession]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._refusal_of_streams: Answer | None = None

    def __len__(self) -> int:
        return len(self._live)

    def in_use(self) -> list[bytes]:
        """Return the digests of the sessions with something in flight."""
        return [digest for digest, live in self._live.items() if live.uses]

    def idle(self) -> list[bytes]:
        """Return the digests of the sessions with nothing in flight."""
        return [digest for digest, live in self._live.items() if not live.uses]

    async def get(self, digest: bytes, restore: Callable[[], Coroutine[Any, Any, LiveSession]]) -> LiveSession:
        """Return the live session of that digest, restored if there is none."""
        if live := self._live.pop(digest, None):
            self._live[digest] = live
            return live
        task = self._restores.get(digest)
        if task is None:
            task = self._restores[digest] = asyncio.create_task(self._restored(digest, restore))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # every waiter may have left
        return await asyncio.shield(task)

    async def _restored(self, digest: bytes, restore: Callable[[], Coroutine[Any, Any, LiveSession]]) -> LiveSession:
        try:
            live = await restore()
            self.add(digest, live)
            return live
        finally:
            del self._restores[digest]

    def add(self, digest: bytes, live: LiveSession) -> None:
        """Take in a live session; over the cap, the least recently used idle one goes."""
        self._live[digest] = live
        if len(self._live) > self._most_idle:
            idle = next((one for one in self._live if one != digest and not self._live[one].uses), None)
            if idle is not None:
                self._let_go([idle])

    def forget(self, digest: bytes, live: LiveSession) -> None:
        """Drop the entry of a session that the app has dropped, unless it was replaced already."""
        if self._live.get(digest) is live:
            del self._live[digest]

    def let_go_idle(self, longest: timedelta) -> None:
        """Let go what nothing has used for that long."""
        before = asyncio.get_running_loop().time() - longest.total_seconds()
        self._let_go([digest for digest in self.idle() if self._live[digest].last_used <= before])

    def end(self, digest: bytes, answer: Answer) -> asyncio.Task[None] | None:
        """Cut off whatever is in flight on an ended session and close it; the task is the closing."""
        if live := self._live.get(digest):
            for use in tuple(live.uses):
                use.cut(answer)
            return self._let_go([digest])
        return None

    def cut_streams(self, answer: Answer) -> None:
        """End all open streams and refuse new ones; their sessions live on."""
        self._refusal_of_streams = answer
        for live in self._live.values():
            for use in [use for use in live.uses if use.is_stream]:
                use.cut(answer)

    def require_streams(self) -> None:
        """Make sure that streams may still be opened.

        Raises:
            CutError: they may not.

        """
        if self._refusal_of_streams is not None:
            raise CutError(self._refusal_of_streams)

    async def aclose(self) -> None:
        """Forget everything, and stop what is still being closed or restored: the app is about to shut down."""
        self._live.clear()
        tasks = [*self._closing, *self._restores.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self, digests: list[bytes]) -> asyncio.Task[None]:
        gone = [self._live.pop(digest) for digest in digests]
        task = asyncio.create_task(self._close_all(gone))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _close_all(self, gone: list[LiveSession]) -> None:
        for live in gone:  # one after the other: a thousand at once would hold up the requests
            await self._close(live)
