"""Bodies of requests on a session: none is held, but for short ones until the app begins its answer."""

import asyncio
import json
import tracemalloc
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.body import SHORT
from mcp_sessions.asgi.responses import NOT_FOUND
from mcp_sessions.asgi.types import App, Message, Receive, Scope, Send
from tests.support.asgi import browsing
from tests.support.mcp_client import INITIALIZE, VERSION, RawClient, call
from tests.support.mcp_servers import fastmcp_app, sdk_app
from tests.support.slow_client import Slow

ADD = call("add", a=1, b=2)
LARGE = {**ADD, "params": {**ADD["params"], "_meta": {"filling": "x" * 1_000_000}}}
PIECE = 256 * 1024
MANY = 256  # pieces of a body of 64 MiB

DROPPING: dict[str, Any] = {
    "sdk": lambda: sdk_app(json=True, session_idle_timeout=0.05),
    "fastmcp": lambda: fastmcp_app(json=True, session_idle_timeout=0.05),
}


@pytest.mark.parametrize("make", DROPPING.values(), ids=list(DROPPING))
@pytest.mark.parametrize("message", [ADD, LARGE], ids=["short", "large"])
@pytest.mark.parametrize("length", ["told", "not told"])
async def test_request_on_a_dropped_session_is_answered(sqlite_url: str, make: Any, message: Any, length: str) -> None:
    """When the app's own idle timeout has ended its session, a request is answered however long its body is."""
    app = DurableSessions(make(), database_url=sqlite_url)
    async with app.lifespan(), browsing(app if length == "told" else untold(app)) as browser:
        client = RawClient(browser)
        await client.initialize()
        await asyncio.sleep(0.1)  # what is waited for is the app's own timer, which cannot be asked
        response = await client.post(message)
        assert response.status == 200
        assert response.message["result"]["content"][0]["text"] == "3"


def untold(app: App) -> App:
    """The same app, for clients that do not tell the length of their bodies."""

    async def chunked(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        await app({**scope, "headers": headers}, receive, send)

    return chunked


class Spy:
    """Counts what reaches the MCP endpoint of an app, and makes it drop its session once it has read a body."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.requests = 0
        self.drops = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        self.requests += 1
        pending = [await receive()]
        if self.drops and pending[0].get("body"):
            self.drops = False
            return await NOT_FOUND(send)

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        return await self._app(scope, again, send)


async def test_drop_in_the_middle_of_a_body_gets_503(sqlite_url: str) -> None:
    """An app that drops its session while it reads a large body: 503, never 404, and the next request is served."""
    spy = Spy(sdk_app(json=True))
    app = DurableSessions(spy, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        spy.drops = True
        response = await client.post(LARGE)
        assert response.status == 503
        assert response.message["id"] == LARGE["id"]
        assert "retry-after" in response.headers
        assert (await client.post(LARGE)).status == 200
        spy.drops = True
        assert (await client.post(ADD)).status == 200


async def test_app_is_asked_only_where_the_body_is_not_short(sqlite_url: str) -> None:
    """A short request is one to the app too; before a large one, the app is asked whether it has its session."""
    spy = Spy(sdk_app(json=True))
    app = DurableSessions(spy, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        for message, requests in ((ADD, 1), (LARGE, 2)):
            before = spy.requests
            assert (await client.post(message)).status == 200
            assert spy.requests == before + requests


@pytest.mark.parametrize("length", ["told", "not told"])
async def test_streamed_body_is_not_held(sqlite_url: str, length: str) -> None:
    """While 64 MiB pass to an app that keeps nothing of them, no more than a few pieces are in memory."""
    app = DurableSessions(measuring, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        client.session_id = (await client.post(INITIALIZE)).headers["mcp-session-id"]
        told = [("content-length", str(MANY * PIECE))] if length == "told" else []
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/mcp",
            "headers": [(name.encode(), str(value).encode()) for name, value in [*client.headers(), *told]],
        }
        answer: list[Message] = []

        async def send(message: Message) -> None:
            answer.append(message)

        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await app(scope, streamed(MANY), send)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert [answer[0]["status"], answer[1]["body"]] == [200, str(MANY * PIECE).encode()]
    assert peak - before < 3 * PIECE


@pytest.mark.parametrize("own", [True, False], ids=["sdk", "other"])
async def test_length_beyond_the_bound_gets_413_at_once(sqlite_url: str, *, own: bool) -> None:
    """On a session, too, what the app does not take is not waited for, nor what may be an answer beyond the bound."""
    app = DurableSessions(sdk_app(json=True) if own else measuring, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        client.session_id = (await client.post(INITIALIZE)).headers["mcp-session-id"]
        told = ("mcp-session-id", client.session_id), ("content-length", "1000000000")
        long = Slow(app, *told, pieces=int(not own), piece=b" " * SHORT)
        assert (await long.response()).status == 413
        assert not long.starved.is_set()


async def test_body_that_does_not_come_gets_408(sqlite_url: str) -> None:
    """On a session, too, a body is waited for as long as the operator says; that of a GET is not waited for at all."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, body_timeout=timedelta(milliseconds=50))
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        named = ("mcp-session-id", client.session_id or "")
        assert (await Slow(app, named, ("content-length", "10")).response()).status == 408
        listening = Slow(app, named, ("content-length", "10"), method="GET")
        assert await listening.status() == 200
        await listening.hang_up()


def streamed(count: int) -> Receive:
    """A ``receive`` that makes a body of so many pieces, each as it is asked for."""
    left = iter(range(count - 1, -1, -1))

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(PIECE), "more_body": next(left) > 0}

    return receive


async def measuring(scope: Scope, receive: Receive, send: Send) -> None:
    """An app with one session, which measures each body piece by piece."""
    assert scope["type"] == "http"
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    result = {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {"name": "app", "version": "1"}}
    opened = json.dumps({"jsonrpc": "2.0", "id": INITIALIZE["id"], "result": result}).encode()
    is_later = b"mcp-session-id" in dict(scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"app-1")]})
    await send({"type": "http.response.body", "body": str(length).encode() if is_later else opened})
