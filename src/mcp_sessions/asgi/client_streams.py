"""A client's GET stream: what this worker's app sends on it, and between its events what other workers send.

What comes from others waits for its turn, a bounded number of it: a client that does not read costs no growing memory.
"""

import asyncio
import json
import secrets
from collections import deque
from http import HTTPStatus
from typing import Any

from mcp_sessions.asgi.event_streams import END_OF_EVENT
from mcp_sessions.asgi.types import Message, Send

_MOST_WAITING = 256


class TooSlowError(Exception):
    """The client does not read its stream, and what waits for it fills the bound."""


class ClientStream:
    """A ``send`` for the app's answer to a GET, and the way into that stream for what other workers send.

    Attributes:
        name: what no other stream is called.
        ended: set once it is over.

    """

    def __init__(self, send: Send) -> None:
        self.name = secrets.token_urlsafe(12)
        self.ended = asyncio.Event()
        self._send = send
        self._sending = asyncio.Lock()
        self._waiting: deque[Any] = deque()
        self._is_between_events = False
        self._flushing: asyncio.Task[None] | None = None

    async def __call__(self, message: Message) -> None:
        """Take the next message of the app's answer."""
        async with self._sending:
            await self._send(message)
            self._is_between_events = self._is_between_after(message)
        self._flush_soon()

    def push(self, message: Any) -> None:
        """Send a JSON-RPC message as soon as the client and the app's own events let it.

        Raises:
            TooSlowError: too many wait already.

        """
        if len(self._waiting) >= _MOST_WAITING:
            raise TooSlowError
        self._waiting.append(message)
        self._flush_soon()

    async def aclose(self) -> None:
        """Send nothing more."""
        self._is_between_events = False
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        self.ended.set()

    def _is_between_after(self, message: Message) -> bool:
        if message["type"] == "http.response.start":
            return bool(message["status"] == HTTPStatus.OK)  # the answer to a GET is a stream
        if not message.get("more_body", False):
            return False
        body = message.get("body", b"")
        return body.endswith(END_OF_EVENT) if body else self._is_between_events

    def _flush_soon(self) -> None:
        if self._waiting and self._is_between_events and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        async with self._sending:
            while self._waiting and self._is_between_events:
                event = b"event: message\r\ndata: %s\r\n\r\n" % json.dumps(self._waiting[0]).encode()
                await self._send({"type": "http.response.body", "body": event, "more_body": True})
                self._waiting.popleft()
