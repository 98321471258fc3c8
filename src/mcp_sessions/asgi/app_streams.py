"""The app's standalone stream on a worker where the client does not listen: the layer holds it, and passes it on.

What an app sends outside of calls is lost where nobody listens. So while the client listens at another worker, the
layer opens the app's stream itself, with a GET as the client's, and leaves each message for that worker, in order.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from http import HTTPStatus
from typing import Any, NamedTuple

from mcp_sessions.asgi.app_requests import listening_scope
from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.event_streams import EventSplitter, data_in
from mcp_sessions.asgi.types import App, Message
from mcp_sessions.digests import short_digest
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log

_PATIENCE_SECONDS = 2.0


class Listener(NamedTuple):
    """Where a client listens: the worker, and the name of its stream there."""

    worker_id: str
    stream: str


PassOn = Callable[[Listener, Any], Awaitable[bool]]
"""Leaves a message for a listener; False where that worker does not live any more."""


class AppStream:
    """The standalone stream of one app session, held until ``stop`` or until the app ends it.

    Once it has asked the client something, this worker looks for the answer: ``waiting`` is for as long as it may come.

    Attributes:
        listener: who hears it.

    """

    def __init__(
        self,
        app: App,
        digest: bytes,
        app_session: AppSession,
        listener: Listener,
        *,
        pass_on: PassOn,
        waiting: Callable[[], AbstractContextManager[None]],
        limit: int,
    ) -> None:
        self.listener = listener
        self._app = app
        self._digest = digest
        self._app_session = app_session
        self._pass_on = pass_on
        self._limit = limit
        self._begin_waiting: Callable[[], AbstractContextManager[None]] | None = waiting
        self._waiting = ExitStack()
        self._events = EventSplitter()
        self._began = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_read = False
        self._is_stream = False
        self._task = asyncio.create_task(self._hold(), name="mcp-sessions app stream")

    async def began(self) -> None:
        """Wait until the app has answered, from when on nothing is lost, but not for an app that is slow to."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._began.wait()

    @property
    def is_over(self) -> bool:
        """Whether the app has ended it, or refused it, or nobody hears it any more."""
        return self._task.done() or self._stopping.is_set()

    async def stop(self) -> None:
        """Let go of it; the app can be listened to by others then."""
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await asyncio.shield(self._task)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _hold(self) -> None:
        try:
            with self._waiting:
                await self._app(listening_scope(self._app_session), self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - any app's, and nobody waits to hear of it
            self._warn("app_stream_failed", error)
        finally:
            self._began.set()

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._stopping.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_stream = message["status"] == HTTPStatus.OK
            self._began.set()
        elif self._is_stream:
            for event in self._events.feed(message.get("body", b"")):
                await self._pass(event)
            if len(self._events.rest) > self._limit:
                self._stopping.set()
                self._warn("app_stream_failed", f"an event has more than {self._limit} bytes: raise max_held_message")

    async def _pass(self, event: bytes) -> None:
        if self._stopping.is_set() or not (data := data_in(event)):
            return
        try:
            message = json.loads(data)
            seen = self._app_session.requests.to_client(message)
            if seen is not message:
                self._wait_for_answers()
            if not await self._pass_on(self.listener, seen):
                self._stopping.set()  # the worker where the client listened does not live any more
        except (ValueError, RecursionError, McpSessionsError) as error:
            self._warn("message_lost", error)

    def _wait_for_answers(self) -> None:
        if self._begin_waiting is not None:
            self._waiting.enter_context(self._begin_waiting())
            self._begin_waiting = None

    def _warn(self, operation: str, error: Exception | str) -> None:
        message = "session %(session)s: what its app sends outside of calls does not reach its client: %(error)s"
        text = str(error) or type(error).__name__
        log(logging.WARNING, operation, message, session=short_digest(self._digest), error=text)
