"""The app's own sessions on this worker: which ones it holds for which durable session, and what is in flight on them.

A worker holds them only as long as they are of use. An entry can be let go at any time that nothing is in flight on
it, because the next request restores it; so nothing here decides about the life of a durable session. Entries are kept
by digest, least recently used first. A restore runs once however many requests wait for it, in a task of its own: a
client that hangs up takes nobody with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain, islice
from typing import Any

from mcp_sessions.asgi.in_flight import GateClosedError
from mcp_sessions.asgi.responses import Answer
from mcp_sessions.asgi.server_requests import ServerRequests
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
class AppSession:
    """The app's own session: its id in the app, and the scope of the last request that the app accepted on it.

    ``requests`` are those of the app to the client of this session.
    """

    app_session_id: bytes
    scope: Scope
    requests: ServerRequests
    last_used: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _users: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Have a request in flight on it."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        """Wait until nothing is in flight on it."""
        if self._users:
            await self._unused.wait()


class AppSessions:
    """The registry of one worker."""

    def __init__(self, close: Callable[[AppSession], Awaitable[None]], *, most: int) -> None:
        self._close = close
        self._most = most
        self._live: dict[bytes, AppSession] = {}
        self._uses: dict[bytes, set[Use]] = {}
        self._restores: dict[bytes, asyncio.Task[AppSession]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._takes_no_streams = False

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._live

    def peek(self, digest: bytes) -> AppSession | None:
        """Return the live session of that digest if there is one here."""
        return self._live.get(digest)

    def in_use(self) -> list[bytes]:
        """Return the digests of the live sessions with something in flight; to wait for a restore is no use of one."""
        return [digest for digest in self._uses if digest in self._live]

    def idle(self) -> list[bytes]:
        """Return the digests of the live sessions with nothing in flight, least recently used first."""
        return [digest for digest in self._live if digest not in self._uses]

    @contextlib.asynccontextmanager
    async def used(self, digest: bytes, *, is_stream: bool) -> AsyncIterator[None]:
        """Keep a session from being let go while a request is in flight on it, be it waiting for a restore.

        Raises:
            CutError: the request was cut off.
            GateClosedError: it is a stream, and none is opened any more.

        """
        use = Use(is_stream, asyncio.timeout(None))
        if is_stream and self._takes_no_streams:
            raise GateClosedError
        uses = self._uses.setdefault(digest, set())
        try:
            async with use.timeout:
                uses.add(use)
                yield
        except TimeoutError:
            if use.answer is None:
                raise  # the app's own
        finally:
            uses.discard(use)
            if not uses:
                del self._uses[digest]
            if live := self._live.get(digest):
                live.last_used = asyncio.get_running_loop().time()
        if use.answer is not None:
            raise CutError(use.answer)

    async def get(self, digest: bytes, restore: Callable[[], Coroutine[Any, Any, AppSession]]) -> AppSession:
        """Return the live session of that digest, restored if there is none."""
        if live := self._live.pop(digest, None):
            self._live[digest] = live
            return live
        task = self._restores.get(digest)
        if task is None:
            task = self._restores[digest] = asyncio.create_task(self._restored(digest, restore))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # every waiter may have left
        return await asyncio.shield(task)

    async def _restored(self, digest: bytes, restore: Callable[[], Coroutine[Any, Any, AppSession]]) -> AppSession:
        try:
            live = await restore()
            self.add(digest, live)
            return live
        finally:
            del self._restores[digest]

    def add(self, digest: bytes, live: AppSession) -> None:
        """Take in a live session; over the cap, the least recently used idle ones go."""
        self._live[digest] = live
        if (surplus := len(self._live) - self._most) > 0:
            others = (other for other in self._live if other != digest and other not in self._uses)
            self._let_go([*islice(others, surplus)])

    def forget(self, digest: bytes, live: AppSession) -> None:
        """Drop the entry of a session that the app has not answered for, unless it was replaced already.

        It may have done so once and hold the session still, or hold it for another principal: so it is closed there,
        as soon as nothing is in flight on it.
        """
        if self._live.get(digest) is live:
            del self._live[digest]
            self.abandon(live)

    def abandon(self, live: AppSession) -> None:
        """Begin to close in the app what is held here no longer."""
        self._begin(self._close_unused(live))

    def let_go_idle(self, longest: timedelta) -> None:
        """Let go what nothing has used for that long, and what a rush of requests has left over the cap."""
        before = asyncio.get_running_loop().time() - longest.total_seconds()
        idle = self.idle()
        surplus = idle[: max(len(self._live) - self._most, 0)]
        unused = [digest for digest in idle if self._live[digest].last_used <= before]
        if gone := {*surplus, *unused}:
            self._let_go(gone)

    def end(self, digest: bytes, answer: Answer) -> None:
        """Cut off whatever is in flight on an ended session, and begin to close it in the app."""
        for use in self._uses.get(digest, ()):
            use.cut(answer)
        if digest in self._live:
            self._let_go([digest])

    def cut_streams(self, answer: Answer) -> None:
        """End all open streams and refuse new ones; their sessions live on."""
        self._takes_no_streams = True
        for use in chain.from_iterable(self._uses.values()):
            if use.is_stream:
                use.cut(answer)

    def cut_all(self, answer: Answer) -> None:
        """Cut off whatever is in flight; the sessions live on."""
        for use in chain.from_iterable(self._uses.values()):
            use.cut(answer)

    async def aclose(self) -> None:
        """Forget everything, and stop what is still being closed or restored: the app is about to shut down."""
        self._live.clear()
        tasks = [*self._closing, *self._restores.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self, digests: Iterable[bytes]) -> None:
        gone = [self._live.pop(digest) for digest in digests]
        self._begin(self._close_all(gone))

    def _begin(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_unused(self, live: AppSession) -> None:
        await live.unused()
        await self._close(live)

    async def _close_all(self, gone: list[AppSession]) -> None:
        for live in gone:  # one after the other: a thousand at once would hold up the requests
            await self._close(live)
