"""The session inside the app: `current_session` in handlers, and FastMCP's own state across workers and restores."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from fastmcp import Context as FastMCPContext
from fastmcp import FastMCP
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from mcp.server.mcpserver import Context, MCPServer

from mcp_sessions import current_session
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.digests import digest_of
from mcp_sessions.keyvalue import SqlStore
from tests.support.asgi import Browser, browsing
from tests.support.concurrency import together
from tests.support.mcp_client import RawClient

Start = Callable[[Any], Awaitable[Browser]]


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[Start]:
    """Start workers, each with an app of its own on the database of the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def started(app: Any) -> Browser:
            durable = DurableSessions(app, database_url=database_url)
            await stack.enter_async_context(durable.lifespan())
            return await stack.enter_async_context(browsing(durable))

        yield started


def digest_in(ctx: object) -> str:
    """Tell which session a handler has."""
    session = current_session(ctx)
    assert session == current_session()
    return "none" if session is None else session.digest.hex()


def sdk_app() -> Any:
    """An app of the official SDK whose tools tell their session."""
    server = MCPServer("test", log_level="WARNING")

    @server.tool()
    async def which(ctx: Context) -> str:
        return digest_in(ctx)

    @server.tool()
    def which_in_a_thread(ctx: Context) -> str:
        return digest_in(ctx)

    return server.streamable_http_app(json_response=True)


class Greeting(Middleware):
    """Stores something in the middle of a handshake."""

    async def on_initialize(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        result = await call_next(context)
        if context.fastmcp_context is not None:
            await context.fastmcp_context.set_state("greeting", "hello")
        return result


def fastmcp_app(database_url: str) -> Any:
    """An app of FastMCP that keeps its state in SQL."""
    server: FastMCP[Any] = FastMCP(
        "test", session_state_store=SqlStore(database_url=database_url), middleware=[Greeting()]
    )

    @server.tool
    async def which(ctx: FastMCPContext) -> str:
        return digest_in(ctx)

    @server.tool
    def which_in_a_thread(ctx: FastMCPContext) -> str:
        return digest_in(ctx)

    @server.tool
    async def remember(ctx: FastMCPContext, text: str) -> str:
        await ctx.set_state("text", text)
        return text

    @server.tool
    async def recall(ctx: FastMCPContext) -> str:
        return f"{await ctx.get_state('greeting')} {await ctx.get_state('text')}"

    @server.tool
    async def forget(ctx: FastMCPContext) -> str:
        await ctx.delete_state("text")
        await ctx.delete_state("greeting")
        return "forgotten"

    return server.http_app(json_response=True)


@pytest.mark.parametrize("kind", ["sdk", "fastmcp"])
async def test_handlers_know_their_session(start: Start, database_url: str, kind: str) -> None:
    """Handlers of many clients at once, in tasks and in threads, on a worker that restored them, have their own."""
    make = sdk_app if kind == "sdk" else partial(fastmcp_app, database_url)
    workers = [await start(make()) for _ in range(2)]
    clients = [RawClient(workers[0]) for _ in range(5)]
    for client in clients:
        await client.initialize()
    expected = [digest_of(str(client.session_id)).hex() for client in clients]
    for worker in workers:
        for tool in ("which", "which_in_a_thread"):
            assert await together(*(client.at(worker).call(tool) for client in clients)) == expected
    assert current_session() is None


async def test_state_of_fastmcp_holds_across_workers(start: Start, database_url: str) -> None:
    """What `ctx.set_state` stored is there on a worker that restored the session, for this session alone."""
    workers = [await start(fastmcp_app(database_url)) for _ in range(3)]
    one, other = RawClient(workers[0]), RawClient(workers[1])
    for client in (one, other):
        await client.initialize()
    assert await one.call("remember", text="mine") == "mine"
    assert await other.at(workers[2]).call("remember", text="theirs") == "theirs"
    for worker in workers:
        assert await one.at(worker).call("recall") == "hello mine"
        assert await other.at(worker).call("recall") == "hello theirs"
    await one.at(workers[1]).call("forget")
    assert (await one.at(workers[2]).call("recall")).endswith(" None")
    assert await other.at(workers[2]).call("recall") == "hello theirs"
