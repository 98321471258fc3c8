"""What a client sets for its session holds on every worker, and after a restore: log level and subscriptions."""

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastmcp import Context, FastMCP
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    UnsubscribeRequestParams,
)

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import App
from tests.support.asgi import Browser, Response, browsing
from tests.support.mcp_client import RawClient, call
from tests.support.polling import until
from tests.support.rows import Rows

_ids = itertools.count(1_000)

StartLayer = Callable[..., Awaitable[Browser]]


@pytest.fixture
async def start_layer(database_url: str) -> AsyncIterator[StartLayer]:
    """Start workers on the database of the test, around apps of its own."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(app: App, **settings: Any) -> Browser:
            layer = DurableSessions(app, database_url=database_url, **settings)
            await stack.enter_async_context(layer.lifespan())
            return await stack.enter_async_context(browsing(layer))

        yield start


class Follower:
    """A server of the SDK that keeps what its clients set in memory, as servers do, and tells them of it."""

    def __init__(self, *, json_response: bool) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.fails = False
        server: Server[Any] = Server(
            "follower",
            on_call_tool=self._tell,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
        )
        server.add_request_handler("logging/setLevel", SetLevelRequestParams, self._set_level)
        self.app = server.streamable_http_app(json_response=json_response)

    def _of(self, ctx: ServerRequestContext[Any]) -> dict[str, Any]:
        assert ctx.request is not None
        return self.held.setdefault(ctx.request.headers["mcp-session-id"], {"level": None, "follows": []})

    async def _tell(self, ctx: ServerRequestContext[Any], _params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=json.dumps(self._of(ctx)))])

    async def _set_level(self, ctx: ServerRequestContext[Any], params: SetLevelRequestParams) -> EmptyResult:
        self._of(ctx)["level"] = params.level
        return EmptyResult()

    async def _subscribe(self, ctx: ServerRequestContext[Any], params: SubscribeRequestParams) -> EmptyResult:
        if self.fails:
            raise ValueError("there is no such resource")
        self._of(ctx)["follows"].append(str(params.uri))
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any], params: UnsubscribeRequestParams) -> EmptyResult:
        self._of(ctx)["follows"].remove(str(params.uri))
        return EmptyResult()


@pytest.fixture(params=[True, False], ids=["json", "sse"])
def json_response(request: pytest.FixtureRequest) -> bool:
    """Each response mode."""
    return bool(request.param)


def setting(method: str, **params: Any) -> dict[str, Any]:
    """A request that sets something."""
    return {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params}


async def set_level(client: RawClient, level: str) -> Response:
    """Ask for log messages of a level."""
    return await client.post(setting("logging/setLevel", level=level))


async def follow(client: RawClient, uri: str, *, verb: str = "subscribe") -> Response:
    """Subscribe to a resource, or unsubscribe."""
    return await client.post(setting(f"resources/{verb}", uri=uri))


async def told(client: RawClient) -> Any:
    """What the server says that the client has set."""
    return json.loads(await client.call("tell"))


async def test_what_is_set_holds_at_the_next_request_anywhere(start_layer: StartLayer, json_response: bool) -> None:
    """A worker that has the session already knows what was set elsewhere at its next request, and so does a new one."""
    one, other, third = [await start_layer(Follower(json_response=json_response).app) for _ in range(3)]
    client = RawClient(one)
    await client.initialize()
    at_other = client.at(other)
    assert await told(at_other) == {"level": None, "follows": []}
    for level in ("debug", "error", "info"):
        assert (await set_level(client, level)).message["result"] == {}
        assert (await told(at_other))["level"] == level
    await follow(client, "note://a")
    await follow(at_other, "note://b")
    await follow(client, "note://c")
    await follow(at_other, "note://a", verb="unsubscribe")
    await set_level(at_other, "warning")
    for worker in (one, other, third):
        held = await told(client.at(worker))
        assert (held["level"], sorted(held["follows"])) == ("warning", ["note://b", "note://c"])


async def test_what_is_set_reaches_a_worker_with_an_open_stream_at_once(start_layer: StartLayer) -> None:
    """A worker where the client only listens is told, without a request to it."""
    here, there = Follower(json_response=True), Follower(json_response=True)
    one, other = await start_layer(here.app), await start_layer(there.app)
    client = RawClient(one)
    await client.initialize()
    listening = client.at(other).begin("GET")
    assert await listening.started() == 200
    await set_level(client, "alert")
    await until(lambda: [held["level"] for held in there.held.values()] == ["alert"])
    listening.hang_up()


async def test_what_is_set_comes_back_with_a_restart(start_layer: StartLayer) -> None:
    """A session that only the database knows comes back with what its client has set, another one without it."""
    client = RawClient(await start_layer(Follower(json_response=False).app))
    await client.initialize()
    await set_level(client, "notice")
    await follow(client, "note://a")
    after = await start_layer(Follower(json_response=False).app)
    assert await told(client.at(after)) == {"level": "notice", "follows": ["note://a"]}
    stranger = RawClient(after)
    await stranger.initialize()
    assert await told(stranger) == {"level": None, "follows": []}


async def test_what_the_app_refuses_is_not_set(start_layer: StartLayer, json_response: bool) -> None:
    """A subscription that the app refuses is nobody's, and an unknown level leaves the one that was set."""
    here, there = Follower(json_response=json_response), Follower(json_response=json_response)
    one, other = await start_layer(here.app), await start_layer(there.app)
    client = RawClient(one)
    await client.initialize()
    await set_level(client, "error")
    here.fails = True
    assert "error" in (await follow(client, "note://none")).message
    assert "error" in (await set_level(client, "loud")).message
    assert await told(client.at(other)) == {"level": "error", "follows": []}


async def test_concurrent_subscriptions_at_two_workers_are_all_kept(start_layer: StartLayer) -> None:
    """Neither of two workers overwrites what the other one records at the same moment."""
    workers = [await start_layer(Follower(json_response=True).app) for _ in range(2)]
    client = RawClient(workers[0])
    await client.initialize()
    wanted = [f"note://{number}" for number in range(12)]
    await asyncio.gather(
        *(follow(client.at(workers[number % 2]), uri) for number, uri in enumerate(wanted)),
    )
    for worker in workers:
        assert sorted((await told(client.at(worker)))["follows"]) == sorted(wanted)


async def test_what_is_set_is_bounded(start_layer: StartLayer, database_url: str) -> None:
    """Who subscribes without end is refused with 400 and keeps what was set; a smaller wish is taken after that."""
    client = RawClient(await start_layer(Follower(json_response=True).app))
    await client.initialize()
    filling = "x" * 60_000
    statuses = [(await follow(client, f"note://{number}/{filling}")).status for number in range(4)]
    assert statuses == [200, 200, 400, 400]
    stored = await Rows(database_url).value("SELECT settings FROM client_settings")
    assert len(json.loads(stored)) == 2
    assert len((await told(client))["follows"]) == 2
    assert (await follow(client, "note://small")).status == 200


async def test_what_is_set_is_sealed(start_layer: StartLayer, database_url: str) -> None:
    """Where there are keys, the database shows nothing of it, and it comes back all the same."""
    keys = {"encryption_keys": base64.b64encode(bytes(32)).decode()}
    client = RawClient(await start_layer(Follower(json_response=True).app, **keys))
    await client.initialize()
    await follow(client, "note://private")
    assert "private" not in str(await Rows(database_url).fetch("SELECT * FROM client_settings"))
    assert (await told(client.at(await start_layer(Follower(json_response=True).app, **keys))))["follows"] == [
        "note://private"
    ]


async def test_what_is_set_leaves_with_its_session(start_layer: StartLayer, database_url: str) -> None:
    """Nothing of it is left where the client ended the session."""
    client = RawClient(await start_layer(Follower(json_response=True).app))
    await client.initialize()
    await follow(client, "note://private")
    assert await Rows(database_url).count("client_settings") == 1
    assert (await client.send("DELETE")).status == 204
    assert await Rows(database_url).count("client_settings") == 0


async def test_an_ordinary_call_reads_no_settings(start_layer: StartLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read once after each change, and not for the calls in between."""
    reads = 0
    client = RawClient(await start_layer(Follower(json_response=True).app))
    await client.initialize()
    await set_level(client, "error")
    await told(client)

    async def counted(*_arguments: object) -> None:
        nonlocal reads
        reads += 1

    monkeypatch.setattr("mcp_sessions.client_settings.ClientSettingsStore.get", counted)
    for _ in range(3):
        await told(client)
    assert reads == 0


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_fastmcp_filters_its_log_messages_everywhere(start_layer: StartLayer) -> None:
    """FastMCP sends what is below the level that was set at another worker no more."""

    def app() -> App:
        server: FastMCP[Any] = FastMCP("logs")

        @server.tool
        async def say(ctx: Context) -> str:
            await ctx.info("by the way")
            await ctx.error("it burns")
            return "said"

        return server.http_app()

    one, other = await start_layer(app()), await start_layer(app())
    client = RawClient(one)
    await client.initialize()

    async def heard(at: RawClient) -> list[str]:
        body = (await at.post(call("say"))).body
        messages = [
            json.loads(line[5:]) for line in body.splitlines() if line.startswith(b"data:") and line[5:].strip()
        ]
        return [each["params"]["level"] for each in messages if each.get("method") == "notifications/message"]

    assert await heard(client.at(other)) == ["info", "error"]
    await set_level(client, "error")
    assert await heard(client.at(other)) == ["error"]
    assert await heard(client) == ["error"]
