"""One GET stream hears every worker: what an app sends outside of calls reaches it, wherever it was sent.

Where a client listens is recorded like what it sets, before its GET is answered, so each worker knows of it before its
app can send anything for a later request. Worker by worker the layer then holds the app's own standalone stream and
passes on what comes (``app_streams``), and the worker with the client's stream puts it between the events of its own
app (``client_streams``). The newest stream of a session is the one that hears: an older one elsewhere is ended, for
its client may have lost it unnoticed.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from mcp_sessions.asgi.app_sessions import AppSession, AppSessions
from mcp_sessions.asgi.app_streams import AppStream, Listener
from mcp_sessions.asgi.client_streams import ClientStream, TooSlowError
from mcp_sessions.asgi.in_flight import CutError
from mcp_sessions.asgi.responses import UNAVAILABLE
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.types import App, Send
from mcp_sessions.client_settings import Values
from mcp_sessions.digests import short_digest
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log
from mcp_sessions.messages.mailbox import Mailbox, Message

LISTENER = "GET"
"""The name under which it is recorded where a client listens."""

_KIND = "server_message"

Change = Callable[[Values], Values]
Record = Callable[[bytes, Change], Awaitable[None]]
"""Changes what is recorded of a session, and tells the other workers."""


class Listening:
    """The clients' streams at this worker, and the apps' streams that are held for those at others."""

    def __init__(
        self, app: App, mailbox: Mailbox, app_sessions: AppSessions, record: Record, settings: HttpSettings
    ) -> None:
        self._app = app
        self._mailbox = mailbox
        self._app_sessions = app_sessions
        self._record = record
        self._limit = settings.max_held_message
        self._client_streams: dict[bytes, ClientStream] = {}
        self._app_streams: dict[AppSession, AppStream] = {}
        self._ending: set[asyncio.Task[None]] = set()
        mailbox.on(_KIND, self._receive)
        mailbox.on_lapse(self._cut_all)

    @contextlib.asynccontextmanager
    async def stream(self, digest: bytes, app_session: AppSession, send: Send) -> AsyncIterator[Send]:
        """Have a client listen here: a ``send`` for the app's answer to its GET.

        Raises:
            DatabaseError: the database failed: nobody would know that it listens.
        """
        stream = ClientStream(send)
        async with contextlib.AsyncExitStack() as leaving:
            async with app_session.setting:
                is_only_one = digest not in self._client_streams  # else the app says whether there may be two
                if is_only_one:
                    self._client_streams[digest] = stream
                    leaving.push_async_callback(self._leave, digest, stream)
                    await self._stop(app_session)
                    await self._record(digest, lambda values: {**values, LISTENER: self._place_of(stream)})
            yield stream if is_only_one else send

    async def bring(self, digest: bytes, app_session: AppSession, recorded: str | None) -> None:
        """Hold the app's stream, or let go of it, by where the client listens; the caller holds ``setting``."""
        listener = None if recorded is None else Listener(*json.loads(recorded))
        if listener is None or listener.worker_id == self._mailbox.worker_id:
            await self._stop(app_session)
            return
        if older := self._client_streams.get(digest):
            self._app_sessions.cut_streams_of(digest, UNAVAILABLE)
            await older.ended.wait()
        held = self._app_streams.get(app_session)
        if held is not None and not held.is_over:
            held.listener = listener
            return
        await self._stop(app_session)
        held = self._app_streams[app_session] = AppStream(
            self._app,
            digest,
            app_session,
            listener,
            pass_on=self._pass_on(digest),
            waiting=self._mailbox.waiting,
            limit=self._limit,
        )
        await held.began()
        if held.is_over:  # the app gives no such stream
            await self._stop(app_session)

    async def let_go(self, app_session: AppSession) -> None:
        """Let go of the app's stream: the app session is about to end."""
        await self._stop(app_session)

    async def aclose(self) -> None:
        """Let go of every stream: the app is about to shut down."""
        await asyncio.gather(*map(self._stop, list(self._app_streams)), *self._ending)

    async def _stop(self, app_session: AppSession) -> None:
        if held := self._app_streams.pop(app_session, None):
            await held.stop()

    def _cut_all(self) -> None:
        """End the clients' streams: others took this worker to be dead, and leave nothing for them any more."""
        for digest in self._client_streams:
            self._app_sessions.cut_streams_of(digest, UNAVAILABLE)

    def _place_of(self, stream: ClientStream) -> str:
        return json.dumps(Listener(self._mailbox.worker_id, stream.name))

    async def _leave(self, digest: bytes, stream: ClientStream) -> None:
        del self._client_streams[digest]
        ending = asyncio.create_task(self._end(digest, self._place_of(stream)))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await stream.aclose()

    async def _end(self, digest: bytes, here: str) -> None:
        def without(values: Values) -> Values:
            return {name: text for name, text in values.items() if (name, text) != (LISTENER, here)}

        try:
            await self._record(digest, without)
        except CutError:
            return  # it went with its session
        except McpSessionsError as error:  # whoever listens next replaces it
            _warn(digest, "listener_not_removed", error)

    def _pass_on(self, digest: bytes) -> Callable[[Listener, object], Awaitable[bool]]:
        async def pass_on(listener: Listener, message: object) -> bool:
            body = json.dumps([listener.stream, message])
            return await self._mailbox.send(_KIND, body, session_digest=digest, worker_id=listener.worker_id)

        return pass_on

    def _receive(self, message: Message) -> None:
        name, content = json.loads(message.body)
        digest = message.session_digest
        stream = None if digest is None else self._client_streams.get(digest)
        if digest is None or stream is None or stream.name != name:
            return  # the client has left; without a stream it hears nothing, as with one worker
        try:
            stream.push(content)
        except TooSlowError as error:
            _warn(digest, "stream_too_slow", error)
            self._app_sessions.cut_streams_of(digest, UNAVAILABLE)


def _warn(digest: bytes, operation: str, error: Exception) -> None:
    message = "session %(session)s: its stream does not hear every worker: %(error)s"
    text = str(error) or type(error).__name__
    log(logging.WARNING, operation, message, session=short_digest(digest), error=text)
