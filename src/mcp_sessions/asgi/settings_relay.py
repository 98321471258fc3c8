"""The app's response to a request that sets something: it goes out once what was accepted is recorded.

A document is held to its end, and of a stream each event to its own. What comes before the response, such as progress,
is not held up.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp_sessions.asgi.client_settings import Setting
from mcp_sessions.asgi.event_streams import EventSplitter, data_in
from mcp_sessions.asgi.headers import first_value, headers_of
from mcp_sessions.asgi.in_flight import CutError
from mcp_sessions.asgi.responses import MISCONFIGURED
from mcp_sessions.asgi.types import Message, Send

Record = Callable[[Sequence[Setting]], Awaitable[None]]
"""Records what the app has accepted."""


class SettingsRelay:
    """A ``send`` that holds the responses to these settings back until they are recorded.

    What goes wrong is kept in ``error``, with nothing more sent, and not raised: an app handles in its own way what is
    raised inside its ``send``.
    """

    def __init__(self, send: Send, settings: Sequence[Setting], record: Record, *, limit: int) -> None:
        self.error: Exception | None = None
        self._send = send
        self._settings = settings
        self._record = record
        self._limit = limit
        self._start: Message | None = None
        self._events: EventSplitter | None = None
        self._held = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take the app's next message."""
        if self.error is not None:
            return
        if message["type"] == "http.response.start":
            self._start = message
            content_type = first_value(headers_of(message), b"content-type") or b""
            self._events = EventSplitter() if content_type.lower().startswith(b"text/event-stream") else None
            return
        try:
            await self._go_on(message, message.get("body", b""), is_last=not message.get("more_body", False))
        except Exception as error:  # noqa: BLE001 - raised again by the caller, outside the app
            self.error = error

    async def _go_on(self, message: Message, piece: bytes, *, is_last: bool) -> None:
        if self._events is None:
            self._held += piece
            complete = [bytes(self._held)] if is_last else []
        else:
            complete = list(self._events.feed(piece))
            self._held = self._events.rest
        if len(self._held) > self._limit:
            raise CutError(MISCONFIGURED)
        for each in complete:
            await self._record_what(each if self._events is None else data_in(each) or b"")
        if complete or is_last:
            rest = self._events.take(everything=True) if self._events is not None and is_last else b""
            await self._pass_on({**message, "body": b"".join(complete) + rest})

    async def _record_what(self, text: bytes) -> None:
        answered = _results_in(text)
        if accepted := [setting for setting in self._settings if setting.request_id in answered]:
            await self._record(accepted)

    async def _pass_on(self, message: Message) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            await self._send(start)
        await self._send(message)


def _results_in(text: bytes) -> list[Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return []
    parts = message if isinstance(message, list) else [message]
    return [part.get("id") for part in parts if isinstance(part, dict) and "result" in part and "method" not in part]
