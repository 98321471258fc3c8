"""An MCP server with one small tool, and clients of it that call the app in this process."""

from time import perf_counter

from mcp.server.mcpserver import MCPServer

from benchmarks.contenders.base import require
from mcp_sessions.asgi.types import App
from tests.support.asgi import Browser, Exchange, Headers
from tests.support.mcp_client import RawClient

_OK = 200


def server() -> MCPServer:
    """Return a server with one small tool, which needs no thread: threads would hide the cost of all else."""
    made = MCPServer("bench", log_level="ERROR")

    @made.tool()
    async def add(a: int, b: int) -> int:
        return a + b

    return made


class Apart:
    """Sends each request apart from the others: of one that is answered, nothing is kept."""

    def __init__(self, app: App) -> None:
        self._app = app

    def begin(self, method: str, path: str = "/mcp", *, headers: Headers = (), body: bytes = b"") -> Exchange:
        """Send a request."""
        return Browser(self._app).begin(method, path, headers=headers, body=body)


async def opened(client: RawClient) -> RawClient:
    """Open a session."""
    require((await client.initialize()).status == _OK)
    return client


async def add(client: RawClient) -> float:
    """Call the tool and return the seconds that it took."""
    began = perf_counter()
    require(await client.call("add", a=1, b=2))
    return perf_counter() - began
