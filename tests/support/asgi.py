"""An HTTP client that calls an ASGI app in this process, message by message, as a server would.

It sends headers that no well-behaved client can send, sees the exact bytes of an answer, holds streams open, and
hangs up when told to.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_sessions.asgi.types import App, Message, Scope

Headers = Iterable[tuple[str, str | bytes]] | Mapping[str, str]

_PATIENCE = 50.0
"""Seconds, just short of what a whole test may take: how fast an answer comes says more about the machine."""
_PIECE = 64 * 1024
"""Bytes of a body that servers hand over at once."""


@dataclass(frozen=True)
class Response:
    """A complete answer."""

    status: int
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The headers, one value each."""
        return {name.decode(): value.decode("latin-1") for name, value in self.raw_headers}

    @property
    def message(self) -> dict[str, Any]:
        """The last JSON-RPC message in it, be it JSON or an event stream."""
        texts = [line[5:] for line in self.body.splitlines() if line.startswith(b"data:")]
        parsed: dict[str, Any] = json.loads(texts[-1] if texts else self.body)
        return parsed


def is_whole(events: bytes | bytearray) -> bool:
    """Whether nothing of a stream's last event is missing yet."""
    return events.endswith((b"\n\n", b"\r\n\r\n"))


def messages_of(events: bytes | bytearray, method: str) -> list[dict[str, Any]]:
    """Return the messages of a stream that are of a method."""
    lines = (line for line in events.splitlines() if line.startswith(b"data:") and method.encode() in line)
    return [json.loads(line[5:]) for line in lines]


class Exchange:
    """One request under way."""

    def __init__(self, app: App, scope: Scope, body: bytes) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        for at in range(0, max(len(body), 1), _PIECE):
            piece = body[at : at + _PIECE]
            self._incoming.put_nowait({"type": "http.request", "body": piece, "more_body": at + _PIECE < len(body)})
        self._started: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._body = bytearray()
        self._task = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: App, scope: Scope) -> None:
        try:
            await app(scope, self._incoming.get, self._send)
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            self._ended.set()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started.set_result(message)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                self.hang_up()
                self._ended.set()

    async def started(self) -> int:
        """Wait for the status."""
        async with asyncio.timeout(_PATIENCE):
            start = await asyncio.shield(self._started)
        status: int = start["status"]
        return status

    async def received(self, part: bytes) -> None:
        """Wait until the body contains this."""
        async with asyncio.timeout(_PATIENCE):
            while part not in self._body:
                assert not self._ended.is_set(), bytes(self._body)
                await asyncio.sleep(0.005)

    async def asked(self, method: str) -> dict[str, Any]:
        """Wait for an event with a request of the server's, and return it."""
        await self.received(method.encode())
        async with asyncio.timeout(_PATIENCE):
            while not is_whole(self._body):  # noqa: ASYNC110 - as in ``received``
                await asyncio.sleep(0.005)
        return messages_of(self._body, method)[-1]

    async def response(self) -> Response:
        """Wait for the end of the answer."""
        await self.started()
        async with asyncio.timeout(_PATIENCE):
            await self._ended.wait()
        start = self._started.result()
        return Response(start["status"], list(start.get("headers", [])), bytes(self._body))

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self._ended.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether the task that serves it was cancelled."""
        return self._task.cancelled()

    def hang_up(self) -> None:
        """Disconnect."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def cancel(self) -> None:
        """Cancel the task that serves it, as a server does that has no more patience."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._started.cancel()

    async def app_returned(self) -> None:
        """Wait until the app is done with the request."""
        async with asyncio.timeout(_PATIENCE):
            await self._task


class Browser:
    """Sends requests to one app."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._under_way: list[Exchange] = []

    def begin(self, method: str, path: str = "/mcp", *, headers: Headers = (), body: bytes = b"") -> Exchange:
        """Send a request; what is said of host and length takes the place of the true ones."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
        given = {name.lower() for name, _ in pairs}
        true = (("host", "127.0.0.1:8000"), ("content-length", str(len(body))))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
                for name, value in (*(pair for pair in true if pair[0] not in given), *pairs)
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        exchange = Exchange(self._app, scope, body)
        self._under_way.append(exchange)
        return exchange

    async def request(self, method: str, path: str = "/mcp", *, headers: Headers = (), body: bytes = b"") -> Response:
        """Send a request and wait for the whole answer."""
        exchange = self.begin(method, path, headers=headers, body=body)
        response = await exchange.response()
        await exchange.app_returned()
        return response

    async def close(self) -> None:
        """Hang up whatever is under way, and wait until the app is done with it."""
        for exchange in self._under_way:
            exchange.hang_up()
            if not exchange.cancelled:
                await exchange.app_returned()


@contextlib.asynccontextmanager
async def browsing(app: App) -> AsyncIterator[Browser]:
    """A client of an app that is running already."""
    browser = Browser(app)
    try:
        yield browser
    finally:
        await browser.close()
