"""Handles: tools that are told their session by an argument, for clients of every revision, on any worker."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import fastmcp
import mcp
import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.digests import digest_of
from tests.support.asgi import Browser, browsing
from tests.support.handle_servers import SERVERS, fastmcp_server, sdk_server
from tests.support.mcp_client import RawClient
from tests.support.rows import Rows

NEWEST = "2026-07-28"
ALICE = Owner("acme", "client-a", "https://issuer.example", "alice")
OTHERS = ["other-tenant", "other-client", "other-issuer", "other-subject", "no-tenant", "no-issuer", "no-subject"]

Start = Callable[..., Awaitable[Browser]]


class NewClient:
    """A client of the newest revision: every request stands for itself."""

    def __init__(self, worker: Browser, user: str | None = None, *, capabilities: dict[str, Any] | None = None) -> None:
        self._worker = worker
        self._capabilities = capabilities or {}
        self._user = user

    async def send(self, method: str, params: dict[str, Any], *more: tuple[str, str]) -> dict[str, Any]:
        """Send a request, and return its result."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": NEWEST,
            "io.modelcontextprotocol/clientInfo": {"name": "new", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": self._capabilities,
        }
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        headers = [("mcp-protocol-version", NEWEST), ("mcp-method", method), *more]
        if "name" in params:
            headers.append(("mcp-name", params["name"]))
        response = await RawClient(self._worker, user=self._user).post(message, *headers)
        assert response.status == 200, response
        assert "mcp-session-id" not in response.headers
        result: dict[str, Any] = response.message["result"]
        return result

    async def tool(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, and return the whole answer."""
        return await self.send("tools/call", {"name": name, "arguments": arguments})

    async def call(self, name: str, **arguments: Any) -> str:
        """Call a tool, and return its text."""
        answer = await self.tool(name, **arguments)
        assert not answer.get("isError"), answer
        return str(answer["content"][0]["text"])

    async def created(self) -> str:
        """Create a session, and return its handle."""
        answer = await self.tool("create_session")
        return str(answer["structuredContent"]["session"])

    async def refused(self, name: str, **arguments: Any) -> str:
        """Call a tool that must not be carried out, and return what the model is told."""
        answer = await self.tool(name, **arguments)
        assert answer["isError"], answer
        return str(answer["content"][0]["text"])


@pytest.fixture(params=sorted(SERVERS))
async def start(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Start]:
    """Start workers of either SDK, each with an app of its own on the database of the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def started(*, auth: bool = False) -> Browser:
            app = DurableSessions(SERVERS[request.param](auth=auth), database_url=database_url, tenant_claim="tenant")
            await stack.enter_async_context(app.lifespan())
            return await stack.enter_async_context(browsing(app))

        yield started


async def test_a_handle_is_a_session_on_every_worker(start: Start, database_url: str) -> None:
    """A session by handle has its state on any worker, belongs to the principal, and ends by its tool everywhere."""
    one, other = await start(auth=True), await start(auth=True)
    handle = await NewClient(one, "alice").created()
    assert await NewClient(one, "alice").call("add_item", session=handle, item="apples") == "apples"
    assert await NewClient(other, "alice-rotated").call("add_item", session=handle, item="pears") == "apples, pears"
    async with SessionManager.open(database_url) as manager:
        (session,) = await manager.list_sessions()
        assert (session.owner, session.digest) == (ALICE, digest_of(handle))
    assert await NewClient(other, "alice").call("which", session=handle) == session.digest.hex()
    await NewClient(other, "alice").call("end_session", session=handle)
    for worker in (one, other):
        assert "Create a session" in await NewClient(worker, "alice").refused("add_item", session=handle, item="plums")
    assert await Rows(database_url).count("session_state") == 0


async def test_what_cannot_be_used_is_one_error(start: Start, database_url: str) -> None:
    """Unknown, ended, expired, malformed and foreign handles, and a digest, are one error, and nothing is changed."""
    worker = await start(auth=True)
    alice = NewClient(worker, "alice")
    handle, ended, expired = [await alice.created() for _ in range(3)]
    await alice.call("add_item", session=handle, item="apples")
    await alice.call("end_session", session=ended)
    rows = Rows(database_url)
    await rows.age(expired, timedelta(hours=1))
    before = await rows.fetch("SELECT * FROM session_state"), await rows.session(handle)
    bad: list[Any] = [ended, expired, "unknown", "with a blank", "x" * 300, digest_of(handle).hex(), 7, ["x"]]
    said = {await alice.refused("add_item", session=each, item="stolen") for each in bad}
    for other in OTHERS:
        for tool, arguments in (("add_item", {"item": "stolen"}), ("which", {}), ("end_session", {})):
            said.add(await NewClient(worker, other).refused(tool, session=handle, **arguments))
    (message,) = {each.partition(": ")[2] if each.startswith("Error") else each for each in said if "valid" not in each}
    assert "unknown, it has expired or ended, or it is not yours" in message
    assert not any(handle in each or "x" * 300 in each for each in said)
    assert (await rows.fetch("SELECT * FROM session_state"), await rows.session(handle)) == before


async def test_the_session_id_of_another_client_is_no_handle(start: Start, database_url: str) -> None:
    """Who got hold of somebody's `Mcp-Session-Id` can do nothing with it as a handle; its owner may use it so."""
    worker = await start(auth=True)
    older = RawClient(worker, user="alice")
    await older.initialize()
    session_id = older.session_id or ""
    for tool, arguments in (("add_item", {"item": "stolen"}), ("which", {}), ("end_session", {})):
        assert "not yours" in await NewClient(worker, "other-subject").refused(tool, session=session_id, **arguments)
    assert await Rows(database_url).count("session_state") == 0
    assert await NewClient(worker, "alice").call("add_item", session=session_id, item="apples") == "apples"
    assert await older.call("add_item", item="pears") == "apples, pears"


async def test_old_and_new_clients_share_a_tool(start: Start) -> None:
    """A client of an older revision may leave the handle out, and need not know; a newer one is told to create one."""
    one, other = await start(), await start()
    old = RawClient(one)
    await old.initialize()
    assert await old.call("add_item", item="apples") == "apples"
    assert await old.at(other).call("add_item", item="pears", session="") == "apples, pears"
    assert await old.call("which") == digest_of(str(old.session_id)).hex()
    handle = await NewClient(one).created()
    assert await old.at(other).call("add_item", session=handle, item="plums") == "plums"
    assert await NewClient(other).call("add_item", session=handle, item="figs") == "plums, figs"
    assert "needs the handle" in await NewClient(one).refused("add_item", item="apples")
    assert "needs the handle" in await NewClient(one).refused("add_item", item="apples", session=None)


async def test_what_clients_are_shown(start: Start) -> None:
    """A handle is text that says how to get one; it is asked for only where a client has no session of its own."""
    worker = await start()
    old = RawClient(worker)
    await old.initialize()
    shown = (await old.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).message["result"]
    for tools, required in ((shown, ["item"]), (await NewClient(worker).send("tools/list", {}), ["session", "item"])):
        by_name = {each["name"]: each for each in tools["tools"]}
        assert {"create_session", "end_session", "add_item"} <= by_name.keys()
        schema = by_name["add_item"]["inputSchema"]
        assert schema["properties"]["session"]["type"] == "string"
        assert "expires" in schema["properties"]["session"]["description"]
        assert "expires" in by_name["create_session"]["description"]
        assert sorted(schema["required"]) == sorted(required)


async def test_several_handles_in_one_call(start: Start) -> None:
    """A tool may take several sessions; a use of each is recorded, and one that cannot be used stops the call."""
    client = NewClient(await start())
    one, other = await client.created(), await client.created()
    assert await client.call("merge", one=one, other=other) == " ".join(
        digest_of(each).hex()[:12] for each in (one, other)
    )
    await client.refused("merge", one=one, other="unknown")


async def test_no_handle_is_in_the_logs(start: Start, caplog: pytest.LogCaptureFixture, database_url: str) -> None:
    """Neither logs nor the database hold a handle, be it used, refused or ended."""
    caplog.set_level("DEBUG")
    worker = await start(auth=True)
    handle = await NewClient(worker, "alice").created()
    await NewClient(worker, "alice").call("add_item", session=handle, item="apples")
    await NewClient(worker, "other-tenant").refused("add_item", session=handle, item="apples")
    await NewClient(worker, "alice").call("end_session", session=handle)
    ours = [each for each in caplog.records if each.name.startswith("mcp_sessions")]
    assert any("session terminated" in each.getMessage() for each in ours)
    assert not any(handle in each.getMessage() for each in ours)
    rows = Rows(database_url)
    assert handle not in repr([await rows.fetch(f"SELECT * FROM {each}") for each in ("session_events", "sessions")])


async def test_the_use_of_a_handle_is_activity(start: Start, database_url: str) -> None:
    """A call with a handle keeps its session alive, as a request with an id does."""
    client, rows = NewClient(await start()), Rows(database_url)
    handle = await client.created()
    for _ in range(3):
        await rows.age(handle, timedelta(minutes=20))
        await client.call("which", session=handle)


# Real clients in this process


async def test_clients_of_the_sdk(database_url: str) -> None:
    """The SDK's own client, as it is by default and of an older revision, uses a server with a manager of its own."""
    async with SessionManager.open(database_url, idle_timeout=timedelta(minutes=45)) as sessions:
        server = sdk_server(sessions, auth=False)
        async with mcp.Client(server) as client:
            tools = {each.name: each for each in (await client.list_tools()).tools}
            assert "45 minutes" in str(tools["create_session"].description)
            created = (await client.call_tool("create_session", {})).structured_content
            assert created is not None
            expires = datetime.fromisoformat(created["expires_at"]) - datetime.now(UTC)
            assert timedelta(minutes=44) < expires < timedelta(minutes=47)
            handle = created["session"]
            answer = await client.call_tool("add_item", {"session": handle, "item": "apples"})
            assert answer.content[0].model_dump()["text"] == "apples"
        async with mcp.Client(server, mode="legacy") as client:
            answer = await client.call_tool("add_item", {"session": handle, "item": "pears"})
            assert answer.content[0].model_dump()["text"] == "apples, pears"
            assert (await client.call_tool("add_item", {"item": "pears"})).is_error


async def test_clients_of_fastmcp(database_url: str) -> None:
    """FastMCP's own client uses a server of FastMCP with a manager of its own."""
    async with (
        SessionManager.open(database_url) as sessions,
        fastmcp.Client(fastmcp_server(sessions, auth=False)) as client,
    ):
        created = (await client.call_tool("create_session")).structured_content
        assert created is not None
        answer = await client.call_tool("add_item", {"session": created["session"], "item": "apples"})
        assert answer.data == "apples"
        failed = await client.call_tool("add_item", {"session": "unknown", "item": "x"}, raise_on_error=False)
        assert failed.is_error
        assert "not yours" in json.dumps([each.model_dump() for each in failed.content])
