"""The app's own sessions on this worker: which ones it holds for which durable session, and what is in flight on them.

A worker holds an app session only as long as it is of use. It can be let go at any time that nothing is in flight on
it, because the next request restores it; so nothing here decides about the life of a durable session. App sessions are
kept by digest, least recently used first. A restore runs once however many requests wait for it, in a task of its own:
a client that hangs up takes nobody with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain, islice
from typing import Any

from mcp_sessions.asgi.in_flight import CutError, InFlight, ShuttingDownError
from mcp_sessions.asgi.responses import Response
from mcp_sessions.asgi.server_requests import ServerRequests
from mcp_sessions.asgi.types import Scope
from mcp_sessions.client_settings import ClientSettings


@dataclass(eq=False, slots=True)
class AppSession:
    """One app session: its id in the app, and the scope of the last request that the app accepted on it.

    ``requests`` are those of the app to the client of this session; ``settings`` what the client has set, as far as
    this app session was brought to it, and ``setting`` is held by whoever changes that.
    """

    app_session_id: bytes
    scope: Scope
    requests: ServerRequests
    settings: ClientSettings = field(default_factory=ClientSettings)
    setting: asyncio.Lock = field(default_factory=asyncio.Lock)
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
    """The app sessions that one worker holds, by the digests of their sessions."""

    def __init__(self, close: Callable[[AppSession], Awaitable[None]], *, most: int) -> None:
        self._close = close
        self._most = most
        self._app_sessions: dict[bytes, AppSession] = {}
        self._in_flight: dict[bytes, set[InFlight]] = {}
        self._restores: dict[bytes, asyncio.Task[AppSession]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._takes_no_streams = False

    def __len__(self) -> int:
        return len(self._app_sessions)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._app_sessions

    def peek(self, digest: bytes) -> AppSession | None:
        """Return the app session of that digest if there is one here."""
        return self._app_sessions.get(digest)

    def in_use(self) -> list[bytes]:
        """Return the digests of the app sessions with something in flight; to wait for a restore is no use of one."""
        return [digest for digest in self._in_flight if digest in self._app_sessions]

    def idle(self) -> list[bytes]:
        """Return the digests of the app sessions with nothing in flight, least recently used first."""
        return [digest for digest in self._app_sessions if digest not in self._in_flight]

    @contextlib.asynccontextmanager
    async def used(self, digest: bytes, *, is_stream: bool) -> AsyncIterator[None]:
        """Keep a session from being let go while a request is in flight on it, be it waiting for a restore.

        Raises:
            CutError: the request was cut off.
            ShuttingDownError: it is a stream, and none is opened any more.

        """
        request = InFlight(is_stream, asyncio.timeout(None))
        if is_stream and self._takes_no_streams:
            raise ShuttingDownError
        requests = self._in_flight.setdefault(digest, set())
        try:
            async with request.timeout:
                requests.add(request)
                yield
        except TimeoutError:
            if request.response is None:
                raise  # the app's own
        finally:
            requests.discard(request)
            if not requests:
                del self._in_flight[digest]
            if app_session := self._app_sessions.get(digest):
                app_session.last_used = asyncio.get_running_loop().time()
        if request.response is not None:
            raise CutError(request.response)

    async def get(self, digest: bytes, restore: Callable[[], Coroutine[Any, Any, AppSession]]) -> AppSession:
        """Return the app session of that digest, restored if there is none."""
        if app_session := self._app_sessions.pop(digest, None):
            self._app_sessions[digest] = app_session
            return app_session
        task = self._restores.get(digest)
        if task is None:
            task = self._restores[digest] = asyncio.create_task(self._restored(digest, restore))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # every waiter may have left
        return await asyncio.shield(task)

    async def _restored(self, digest: bytes, restore: Callable[[], Coroutine[Any, Any, AppSession]]) -> AppSession:
        try:
            app_session = await restore()
            self.add(digest, app_session)
            return app_session
        finally:
            del self._restores[digest]

    def add(self, digest: bytes, app_session: AppSession) -> None:
        """Take in an app session; over the cap, the least recently used idle ones go."""
        self._app_sessions[digest] = app_session
        if (surplus := len(self._app_sessions) - self._most) > 0:
            others = (other for other in self._app_sessions if other != digest and other not in self._in_flight)
            self._let_go([*islice(others, surplus)])

    def forget(self, digest: bytes, app_session: AppSession) -> None:
        """Drop the entry of a session that the app has not answered for, unless it was replaced already.

        It may have done so once and hold the session still, or hold it for another principal: so it is closed there,
        as soon as nothing is in flight on it.
        """
        if self._app_sessions.get(digest) is app_session:
            del self._app_sessions[digest]
            self.abandon(app_session)

    def abandon(self, app_session: AppSession) -> None:
        """Begin to close in the app what is held here no longer."""
        self._start_closing(self._close_unused(app_session))

    def let_go_idle(self, longest: timedelta) -> None:
        """Let go what nothing has used for that long, and what a rush of requests has left over the cap."""
        before = asyncio.get_running_loop().time() - longest.total_seconds()
        idle = self.idle()
        surplus = idle[: max(len(self._app_sessions) - self._most, 0)]
        unused = [digest for digest in idle if self._app_sessions[digest].last_used <= before]
        if gone := {*surplus, *unused}:
            self._let_go(gone)

    def end(self, digest: bytes, response: Response) -> None:
        """Cut off whatever is in flight on an ended session, and begin to close it in the app."""
        for request in self._in_flight.get(digest, ()):
            request.cut(response)
        if digest in self._app_sessions:
            self._let_go([digest])

    def cut_streams_of(self, digest: bytes, response: Response) -> None:
        """End the open streams of one session."""
        for request in self._in_flight.get(digest, ()):
            if request.is_stream:
                request.cut(response)

    def cut_streams(self, response: Response) -> None:
        """End all open streams and refuse new ones; their sessions live on."""
        self._takes_no_streams = True
        for request in chain.from_iterable(self._in_flight.values()):
            if request.is_stream:
                request.cut(response)

    def cut_all(self, response: Response) -> None:
        """Cut off whatever is in flight; the sessions live on."""
        for request in chain.from_iterable(self._in_flight.values()):
            request.cut(response)

    async def aclose(self) -> None:
        """Forget everything, and stop what is still being closed or restored: the app is about to shut down."""
        self._app_sessions.clear()
        tasks = [*self._closing, *self._restores.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self, digests: Iterable[bytes]) -> None:
        gone = [self._app_sessions.pop(digest) for digest in digests]
        self._start_closing(self._close_all(gone))

    def _start_closing(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_unused(self, app_session: AppSession) -> None:
        await app_session.unused()
        await self._close(app_session)

    async def _close_all(self, gone: list[AppSession]) -> None:
        for app_session in gone:  # one after the other: a thousand at once would hold up the requests
            await self._close(app_session)
