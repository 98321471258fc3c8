"""A client that does not send what it has announced."""

import asyncio

from mcp_sessions.asgi.body import SHORT
from mcp_sessions.asgi.types import App, Message
from tests.support.asgi import Response
from tests.support.mcp_client import ACCEPT, JSON
from tests.support.polling import until

_PATIENCE = 10


class Slow:
    """A client that sends the head of its request, then some pieces of a body, and no more."""

    def __init__(
        self, app: App, *headers: tuple[str, str], method: str = "POST", pieces: int = 0, piece: bytes = bytes(SHORT)
    ) -> None:
        self.starved = asyncio.Event()
        self._left = asyncio.Event()
        self._pieces = pieces
        self._piece = piece
        self._answer: list[Message] = []
        named = {"host": "127.0.0.1:8000", **dict((ACCEPT, JSON, *headers))}
        pairs = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {"type": "http", "http_version": "1.1", "method": method, "path": "/mcp", "headers": pairs}
        self._task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._pieces:
            self._pieces -= 1
            return {"type": "http.request", "body": self._piece, "more_body": True}
        self.starved.set()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self._answer.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._left.set()

    async def status(self) -> int:
        """Wait for the beginning of the answer."""
        await until(lambda: bool(self._answer))
        status: int = self._answer[0]["status"]
        return status

    async def response(self) -> Response:
        """Wait for the answer, which comes although the body does not."""
        async with asyncio.timeout(_PATIENCE):
            await self._task
        start, *pieces = self._answer
        return Response(start["status"], start.get("headers", []), b"".join(each.get("body", b"") for each in pieces))

    async def hang_up(self) -> None:
        """Leave, and wait until the app has noticed."""
        self._left.set()
        await self._task
