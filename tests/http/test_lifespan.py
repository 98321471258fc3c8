"""Start-up and shut-down within the lifespan of the wrapped app, under a server or mounted in a host app."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_sessions import SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import LifespanFailedError, run_lifespan
from mcp_sessions.asgi.types import Receive, Scope, Send
from mcp_sessions.errors import ConfigurationError
from tests.http.conftest import StartWorker
from tests.support.asgi import browsing
from tests.support.mcp_client import RawClient, call
from tests.support.mcp_servers import APPS, GATES, Gate, sdk_app


def hosting(lifespan: Any) -> Starlette:
    """An app with that lifespan, which could have an MCP endpoint."""
    return Starlette(routes=[Mount("/mcp", app=sdk_app(json=True))], lifespan=lifespan)


async def test_mounted_app_is_served(sqlite_url: str, kind: str) -> None:
    """Mounted in a host app that runs its lifespan, the app is served under its prefix."""
    mounted = DurableSessions(APPS[kind](), database_url=sqlite_url)
    host = Starlette(routes=[Mount("/notes", app=mounted)], lifespan=mounted.lifespan)
    async with run_lifespan(host), browsing(host) as browser:
        client = RawClient(browser, path="/notes/mcp")
        await client.initialize()
        assert await client.call("add", a=1, b=2) == "3"


async def test_app_without_lifespan_is_served(sqlite_url: str) -> None:
    """An app that raises on lifespan events, as ASGI allows, has its sessions open from the start to the stop."""

    async def plain(scope: Scope, _receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})

    app = DurableSessions(plain, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        assert (await browser.request("OPTIONS")).body == b"plain"
        async with SessionManager.open(sqlite_url):  # time enough to stop
            assert (await browser.request("POST")).status == 400


async def test_sessions_are_open_around_the_apps_own_life(sqlite_url: str) -> None:
    """The app's start-up and shut-down code finds the sessions open."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        events.append("started")
        yield
        events.append("stopped")

    app = DurableSessions(hosting(lifespan), database_url=sqlite_url)
    async with app.lifespan():
        assert events == ["started"]
    assert events == ["started", "stopped"]


async def test_start_up_fails_with_the_reason(tmp_path: Path) -> None:
    """A database that cannot be opened fails the start-up with a message that says why, and the app never starts."""
    started = False

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        nonlocal started
        started = True
        yield

    missing = tmp_path / "missing" / "sessions.db"
    app = DurableSessions(hosting(lifespan), database_url=f"sqlite:///{missing}")
    with pytest.raises(LifespanFailedError, match="missing"):
        async with app.lifespan():
            pass
    assert not started


async def test_apps_failed_start_up_comes_through(sqlite_url: str) -> None:
    """When the app itself fails to start, its message reaches the server."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no flour in the house")
        yield

    app = DurableSessions(hosting(lifespan), database_url=sqlite_url)
    with pytest.raises(LifespanFailedError, match="no flour in the house"):
        async with app.lifespan():
            pass


async def test_request_before_start_up_says_what_is_missing(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody runs the lifespan, requests get 500, and the log says what to do about it."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with browsing(app) as browser:
        assert (await browser.request("POST")).status == 500
    assert "lifespan=durable.lifespan" in caplog.text


async def test_shutdown_waits_for_requests_in_flight(start_worker: StartWorker, database_url: str) -> None:
    """A request in flight at shutdown is answered, open streams are closed, new requests get 503, no session ends."""
    app = DurableSessions(sdk_app(json=True), database_url=database_url)
    GATES["drain"] = gate = Gate()
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        stream = client.begin("GET")
        await stream.started()
        waiting = client.begin("POST", call("wait", gate="drain"))
        await gate.reached.wait()
        draining = asyncio.create_task(app.drain())
        await stream.response()
        late = await client.post(call("add", a=1, b=2))
        assert late.status == 503
        gate.opened.set()
        assert (await waiting.response()).status == 200
        await draining
    assert await client.at(await start_worker()).call("add", a=1, b=2) == "3"


async def test_shutdown_ends_no_session(start_worker: StartWorker, database_url: str, kind: str) -> None:
    """What a worker leaves behind as it shuts down in order, another serves."""
    app = DurableSessions(APPS[kind](), database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
    assert await client.at(await start_worker(kind)).call("add", a=1, b=2) == "3"


async def test_shutdown_waits_no_longer_than_its_bound(start_worker: StartWorker, database_url: str) -> None:
    """A request that does not end within the drain timeout gets 503, and its session lives on."""
    app = DurableSessions(sdk_app(json=True), database_url=database_url, drain_timeout=timedelta(milliseconds=50))
    GATES["stuck"] = gate = Gate()
    async with browsing(app) as browser, app.lifespan():
        client = RawClient(browser)
        await client.initialize()
        waiting = client.begin("POST", call("wait", gate="stuck"))
        await gate.reached.wait()
    response = await waiting.response()
    assert response.status == 503
    assert "retry-after" in response.headers
    assert await client.at(await start_worker()).call("add", a=1, b=2) == "3"


async def test_answer_that_has_begun_is_ended_by_the_shutdown(database_url: str) -> None:
    """An event stream that answers a call, and is still open after the drain timeout, comes to an end."""
    app = DurableSessions(sdk_app(json=False), database_url=database_url, drain_timeout=timedelta(milliseconds=50))
    GATES["stream"] = gate = Gate()
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        waiting = client.begin("POST", call("wait", gate="stream"))
        await gate.reached.wait()
        await app.drain()
        assert (await waiting.response()).status == 200
        await waiting.app_returned()


async def test_server_without_patience_leaves_a_503(start_worker: StartWorker, database_url: str) -> None:
    """A request that the server cancels, as uvicorn does at its own time limit, gets 503 from the layer."""
    app = DurableSessions(sdk_app(json=True), database_url=database_url)
    GATES["cancel"] = gate = Gate()
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        waiting = client.begin("POST", call("wait", gate="cancel"))
        await gate.reached.wait()
        await waiting.cancel()
        assert waiting.cancelled
        assert (await waiting.response()).status == 503
    assert await client.at(await start_worker()).call("add", a=1, b=2) == "3"


@pytest.mark.parametrize("kind", ["fastmcp-json", "fastmcp-sse"])
async def test_app_is_started_again(sqlite_url: str, kind: str) -> None:
    """An app that can start a second time, as FastMCP's can, serves the same sessions then, and drains again."""
    app = DurableSessions(APPS[kind](), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
    async with browsing(app) as browser:
        assert (await client.at(browser).post(call("add", a=1, b=2))).status == 503
    async with app.lifespan(), browsing(app) as browser:
        client = client.at(browser)
        assert await client.call("add", a=1, b=2) == "3"
        stream = client.begin("GET")
        assert await stream.started() == 200
        assert (await client.post(call("add", a=1, b=2))).headers.get("connection") != "close"
    assert stream.ended


async def test_app_that_starts_once_says_so(sqlite_url: str) -> None:
    """An app of the SDK does not start a second time, and the message says what to do about it."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with app.lifespan():
        pass
    for _ in range(2):
        with pytest.raises(LifespanFailedError, match=r"does not start a second time, .* anew for each start"):
            async with app.lifespan():
                pass


async def test_managers_of_others_are_left_open(sqlite_url: str) -> None:
    """A manager that the author passes is used, and still open after shutdown."""
    async with SessionManager.open(sqlite_url) as manager:
        app = DurableSessions(sdk_app(json=True), sessions=manager)
        async with app.lifespan(), browsing(app) as browser:
            await RawClient(browser).initialize()
        assert await manager.get_active_session_count() == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"check_interval": timedelta(0)}, "MCP_SESSIONS_HTTP_CHECK_INTERVAL"),
        ({"max_live_sessions": 0}, "MCP_SESSIONS_HTTP_MAX_LIVE_SESSIONS"),
        ({"idle_timeout": timedelta(seconds=-1)}, "MCP_SESSIONS_IDLE_TIMEOUT"),
        ({"path": "mcp"}, "MCP_SESSIONS_HTTP_PATH. must begin with a slash, such as /mcp"),
        ({"no_such_setting": 1}, "no_such_setting"),
    ],
)
def test_wrong_setting_is_named(settings: dict[str, Any], named: str) -> None:
    """A setting that makes no sense is refused at once, by name."""
    with pytest.raises(ConfigurationError, match=named):
        DurableSessions(sdk_app(json=True), **settings)
