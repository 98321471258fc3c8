"""The layer's start-up and shut-down within the ASGI lifespan of the app that it wraps.

Sessions are open before the app starts and until after it has stopped, so its own start-up and shut-down code may use
them. An app that knows no lifespan is served all the same. A host app that only mounts the wrapped one does not pass
lifespan events on; ``run_lifespan`` is for its own lifespan function.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from mcp_sessions.asgi.types import App, Message, Receive, Scope, Send
from mcp_sessions.errors import McpSessionsError

_ONCE = (
    "the app inside DurableSessions does not start a second time, as none of the mcp SDK's does: "
    "make the server's app and DurableSessions around it anew for each start"
)
_ENDINGS = {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}


class LifespanFailedError(McpSessionsError):
    """The app's start-up or shut-down failed; the message is the one it gave."""


class LayeredLifespan:
    """The lifespan of an app inside that of the layer around it."""

    def __init__(
        self, app: App, running: Callable[[], AbstractAsyncContextManager[None]], drain: Callable[[], Awaitable[None]]
    ) -> None:
        self._app = app
        self._running = running
        self._drain = drain
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan protocol."""
        startup = await receive()
        stack = contextlib.AsyncExitStack()
        try:
            await stack.enter_async_context(self._running())
        except McpSessionsError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        async with stack:
            await self._around_app(scope, startup, receive, send, stack)

    async def _around_app(
        self, scope: Scope, startup: Message, receive: Receive, send: Send, stack: contextlib.AsyncExitStack
    ) -> None:
        pending = [startup]
        spoken = False

        async def receive_draining() -> Message:
            if pending:
                return pending.pop()
            message = await receive()
            await self._drain()
            return message

        async def send_after_closing(message: Message) -> None:
            nonlocal spoken
            spoken = True
            if message["type"] == "lifespan.startup.failed" and self._has_started:
                message = {**message, "message": f"{_ONCE}\n{message.get('message', '')}"}
            self._has_started = True
            if message["type"] in _ENDINGS:
                await stack.aclose()
            await send(message)

        try:
            await self._app(scope, receive_draining, send_after_closing)
        except Exception:
            if spoken:
                raise
        if not spoken:  # ASGI 3.0, Lifespan: an app that raises or returns at once does without
            pending.clear()
            await send({"type": "lifespan.startup.complete"})
            await receive_draining()
            await send_after_closing({"type": "lifespan.shutdown.complete"})


@contextlib.asynccontextmanager
async def run_lifespan(app: App) -> AsyncIterator[None]:
    """Run an app's lifespan around a block.

    Raises:
        LifespanFailedError: the app's start-up or shut-down failed.

    """
    events: asyncio.Queue[Message] = asyncio.Queue()
    replies: asyncio.Queue[Message] = asyncio.Queue()

    async def serve() -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        await app(scope, events.get, replies.put)

    async def pass_on(event: str) -> None:
        await events.put({"type": f"lifespan.{event}"})
        reply = await replies.get()
        if reply["type"] != f"lifespan.{event}.complete":
            raise LifespanFailedError(reply.get("message", ""))

    task = asyncio.create_task(serve())
    task.add_done_callback(lambda _: replies.put_nowait({"type": "gone", "message": "the app's lifespan broke off"}))
    try:
        await pass_on("startup")
        try:
            yield
        finally:
            await pass_on("shutdown")
    finally:
        await asyncio.gather(task, return_exceptions=True)  # what it raised, it has reported as failed before
