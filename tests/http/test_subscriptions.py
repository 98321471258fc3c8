"""Subscriptions of the revision without sessions: what any worker publishes reaches the streams of all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.subscriptions import ResourceUpdated, ServerEvent, ToolsListChanged

from mcp_sessions import SessionManager
from mcp_sessions.mcp import SqlSubscriptionBus
from tests.support.polling import until


@pytest.fixture
async def buses(database_url: str) -> AsyncIterator[tuple[SqlSubscriptionBus, SqlSubscriptionBus]]:
    """The buses of two workers, one with a manager of its own and one with somebody else's."""
    async with SessionManager.open(database_url) as sessions:
        one, other = SqlSubscriptionBus(database_url=database_url), SqlSubscriptionBus(sessions)
        yield one, other
        await one.aclose()
        await other.aclose()


async def test_what_one_worker_publishes_all_hear(buses: tuple[SqlSubscriptionBus, SqlSubscriptionBus]) -> None:
    """Each listener hears each event once, its own worker's too, until it has unsubscribed."""
    heard: list[list[ServerEvent]] = [[], []]
    ends = [bus.subscribe(events.append) for bus, events in zip(buses, heard, strict=True)]
    await buses[0].publish(ToolsListChanged())
    await until(lambda: heard[0] != [])
    events: list[ServerEvent] = [ResourceUpdated(uri=f"note://{number}") for number in range(20)]
    while ToolsListChanged() not in heard[1]:  # until the other bus is open, it is not heard there
        await buses[0].publish(ToolsListChanged())
        await asyncio.sleep(0.01)
    for event in events:
        await buses[0].publish(event)
    await until(lambda: events[-1] in heard[1])
    for each in heard:
        assert [event for event in each if isinstance(event, ResourceUpdated)] == events
    ends[1]()
    await buses[1].publish(ResourceUpdated(uri="note://last"))
    await until(lambda: ResourceUpdated(uri="note://last") in heard[0])
    assert ResourceUpdated(uri="note://last") not in heard[1]


async def test_clients_of_other_workers_hear_it(buses: tuple[SqlSubscriptionBus, SqlSubscriptionBus]) -> None:
    """A client that listens at one worker hears what a tool of another one publishes."""
    servers = [MCPServer("notes", subscriptions=bus, log_level="ERROR") for bus in buses]

    @servers[0].tool()
    async def change(ctx: Context, number: int) -> str:
        await ctx.notify_resource_updated(f"note://{number}")
        return "changed"

    @servers[1].resource("note://{number}")
    def note(number: str) -> str:
        return number

    async with AsyncExitStack() as stack:
        writer, reader = [await stack.enter_async_context(Client(server)) for server in servers]
        subscription = await stack.enter_async_context(reader.listen(resource_subscriptions=["note://7"]))
        heard = asyncio.ensure_future(anext(aiter(subscription)))
        while not heard.done():
            await writer.call_tool("change", {"number": 7})
            await asyncio.wait([heard], timeout=0.05)
        assert heard.result() == ResourceUpdated(uri="note://7")
