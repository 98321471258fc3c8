"""MCP over raw HTTP, as the specification writes it, for tests of what no SDK's client would send."""

import itertools
import json
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from tests.support import asgi
from tests.support.asgi import Headers, Response

ACCEPT = ("accept", "application/json, text/event-stream")
JSON = ("content-type", "application/json")
VERSION = "2025-11-25"
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": VERSION,
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_ids = itertools.count(1)


def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
    """Return a tools/call request."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": next(_ids), "method": "tools/call", "params": params}


class Exchange(Protocol):
    """One request under way, in this process or on a socket."""

    async def response(self) -> Response:
        """Wait for the end of the answer."""

    async def app_returned(self) -> None:
        """Wait until the app is done with the request."""


Exchange_co = TypeVar("Exchange_co", bound=Exchange, covariant=True, default=asgi.Exchange)


class Browser(Protocol[Exchange_co]):
    """Sends requests to one worker, in this process or on a socket."""

    def begin(self, method: str, path: str = ..., *, headers: Headers = ..., body: bytes = ...) -> Exchange_co:
        """Send a request."""


class RawClient(Generic[Exchange_co]):
    """A client of one endpoint, anonymous or as the bearer of a user's token, with or without a session id."""

    def __init__(self, browser: Browser[Exchange_co], *, user: str | None = None, path: str = "/mcp") -> None:
        self._browser = browser
        self.user = user
        self.path = path
        self.session_id: str | None = None

    def at(self, browser: Browser[Exchange_co]) -> "RawClient[Exchange_co]":
        """The same client at another worker."""
        return self.using(browser=browser)

    def using(self, *, browser: Browser[Exchange_co] | None = None, **changes: Any) -> "RawClient[Exchange_co]":
        """A copy with another worker, user or session id."""
        twin = RawClient(browser or self._browser, user=self.user, path=self.path)
        twin.session_id = self.session_id
        for name, value in changes.items():
            setattr(twin, name, value)
        return twin

    def headers(self, *more: tuple[str, str | bytes]) -> list[tuple[str, str | bytes]]:
        """The headers that this client sends."""
        headers: list[tuple[str, str | bytes]] = [ACCEPT, JSON]
        if self.user is not None:
            headers.append(("authorization", f"Bearer {self.user}"))
        if self.session_id is not None:
            headers += [("mcp-session-id", self.session_id), ("mcp-protocol-version", VERSION)]
        return [*headers, *more]

    def begin(self, method: str, message: Any = None, *more: tuple[str, str | bytes]) -> Exchange_co:
        """Send a request."""
        body = b"" if message is None else json.dumps(message).encode()
        return self._browser.begin(method, self.path, headers=self.headers(*more), body=body)

    async def send(self, method: str, message: Any = None, *more: tuple[str, str | bytes]) -> Response:
        """Send a request and wait for the whole answer."""
        exchange = self.begin(method, message, *more)
        response = await exchange.response()
        await exchange.app_returned()
        return response

    async def post(self, message: Any, *more: tuple[str, str | bytes]) -> Response:
        """POST a message."""
        return await self.send("POST", message, *more)

    async def initialize(self) -> Response:
        """Open a session, and use it from now on."""
        response = await self.post(INITIALIZE)
        self.session_id = response.headers["mcp-session-id"]
        assert (await self.post(INITIALIZED)).status == 202
        return response

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool and return the text of its answer."""
        response = await self.post(call(tool, **arguments))
        assert response.status == 200, response
        return response.message["result"]["content"][0]["text"]
