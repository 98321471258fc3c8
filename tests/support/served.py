"""What the tests of `mcp-sessions serve` serve; copied to the folder where it is started, as a module of its own."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_sessions.asgi import DurableSessions


def pid() -> int:
    """The process that answers."""
    return os.getpid()


async def wait(gate: str) -> str:
    """Wait until the test makes a file."""
    Path(f"{gate}.reached").touch()
    while not Path(f"{gate}.opened").exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(0.01)
    return "waited"


server = MCPServer("notes", log_level="WARNING")
for tool in (pid, wait):
    server.add_tool(tool)


def make_app() -> Starlette:
    """Make an app that serves MCP elsewhere than usual."""
    return server.streamable_http_app(streamable_http_path="/elsewhere")


def with_argument(server: MCPServer) -> Starlette:
    """Make an app of something that nobody gives."""
    return server.streamable_http_app()


async def make_app_later() -> Starlette:
    """Make an app, but later."""
    return make_app()


class Plain:
    """An ASGI app that no library knows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await self._app(scope, receive, send)


app = server.streamable_http_app()
plain = Plain(server.streamable_http_app())
durable = DurableSessions(server, idle_timeout=timedelta(minutes=7))
number = 7


@contextlib.asynccontextmanager
async def _fails(_app: Starlette) -> AsyncIterator[None]:
    raise RuntimeError("no flour in the house")
    yield


def failing() -> Starlette:
    """Make an app that does not start."""
    return Starlette(routes=server.streamable_http_app().routes, lifespan=_fails)
