"""The way back to the client: how far a response has come, and whether it is the last one on its connection."""

from collections.abc import Callable
from datetime import timedelta

from mcp_sessions.asgi.body import PATIENCE, RepeatableBody, request_id_of
from mcp_sessions.asgi.headers import CONNECTION, replaced
from mcp_sessions.asgi.responses import Response
from mcp_sessions.asgi.types import Message, Request


class ClientSend:
    """A ``send`` to the client, which knows how far the response has come and closes the connection of a last one."""

    def __init__(self, request: Request, body: RepeatableBody, is_last: Callable[[], bool]) -> None:
        self._send = request.send
        self._body = body
        self._is_last = is_last
        version: str = request.scope.get("http_version", "1.1")
        self._closes = version.startswith("1.")  # later versions close no connection by a header
        self.started = False
        self._complete = False

    async def __call__(self, message: Message) -> None:
        """Take the next message of the response."""
        if not self.started:
            self.started = True
            self._body.forget()
        self._complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        if message["type"] == "http.response.start" and self._closes and self._is_last():
            message = {**message, "headers": replaced(message.get("headers", ()), CONNECTION, b"close")}
        await self._send(message)

    async def finish(self, response: Response, request: Request, *, patience: timedelta = PATIENCE) -> None:
        """Give this response to the request, or end the one that has begun."""
        if not self.started:
            await response.to(await request_id_of(request, patience))(self)
        elif not self._complete:
            await self({"type": "http.response.body", "body": b"", "more_body": False})
