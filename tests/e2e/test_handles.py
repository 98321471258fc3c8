"""Handles over real processes: clients of every revision share one session, on workers in turn and over a restart."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import fastmcp
import mcp
import pytest

from mcp_sessions import SessionManager
from mcp_sessions.digests import digest_of
from tests.support.serving import SOURCES, serving

ROOT = Path(__file__).parents[2]
CARTS = "from tests.support.handle_servers import {0}_server\nserver = {0}_server(None, auth=False)\n"

Call = Callable[..., Any]


@asynccontextmanager
async def sdk(endpoint: str, mode: Any = "auto") -> AsyncIterator[Call]:
    """The official SDK's client, as it is by default: of the newest revision."""
    async with mcp.Client(endpoint, mode=mode) as client:

        async def call(tool: str, **arguments: Any) -> Any:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result
            return result.structured_content

        yield call


def older_sdk(endpoint: str) -> AbstractAsyncContextManager[Call]:
    """The same, of 2025-11-25."""
    return sdk(endpoint, "legacy")


@asynccontextmanager
async def fast(endpoint: str) -> AsyncIterator[Call]:
    """FastMCP's client."""
    async with fastmcp.Client(endpoint) as client:

        async def call(tool: str, **arguments: Any) -> Any:
            return (await client.call_tool(tool, arguments)).structured_content

        yield call


@pytest.mark.parametrize("kind", ["sdk", "fastmcp"])
@pytest.mark.slow
async def test_clients_of_every_revision_share_a_session(tmp_path: Path, database_url: str, kind: str) -> None:
    """What one put into a session's state, the next one finds, whatever client and worker, also after a restart."""
    (tmp_path / "carts.py").write_text(CARTS.format(kind))

    def worker() -> Any:
        options = ("--database-url", database_url)
        return serving(tmp_path, "carts:server", *options, PYTHONPATH=f"{SOURCES}:{ROOT}")

    cart: list[str] = []

    async def add(call: Call, item: str, handle: str) -> None:
        cart.append(item)
        assert await call("add_item", session=handle, item=item) == {"result": ", ".join(cart)}

    with worker() as one, worker() as other:
        async with sdk(one.endpoint) as call:
            handle = (await call("create_session"))["session"]
            await add(call, "apples", handle)
        for turn, (client, server) in enumerate([(fast, other), (older_sdk, one), (older_sdk, other), (fast, one)]):
            async with client(server.endpoint) as call:
                await add(call, f"pears {turn}", handle)
    with worker() as again:
        async with older_sdk(again.endpoint) as older, sdk(again.endpoint) as newest:
            await add(older, "plums", handle)
            assert await older("add_item", item="its own") == {"result": "its own"}  # by its Mcp-Session-Id
            assert await newest("which", session=handle) == {"result": digest_of(handle).hex()}
            await newest("end_session", session=handle)
            with pytest.raises(AssertionError, match="it has expired or ended"):
                await older("add_item", session=handle, item="too late")
        assert handle not in again.output
    async with SessionManager.open(database_url) as sessions:
        reasons = [each.reason for each in await sessions.list_events() if each.digest == digest_of(handle)]
        assert reasons == ["terminated", "created by a tool"]
