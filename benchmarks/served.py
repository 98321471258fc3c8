"""A worker process of the HTTP part: one contender's app under uvicorn, started as its documentation says.

All serve the same MCP server, answer in event streams, and run on what the SDK installs: uvicorn with h11 on asyncio.
Only the access log is off, for everybody.
"""

import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

from mcp_sessions.asgi.types import App
from tests.support.processes import free_port

OURS, IN_MEMORY, MCP_PERSIST = "mcp-sessions", "the SDK's in memory", "mcp-persist"
MEASURED = "mcp-sessions with metrics"

SETTINGS = {
    OURS: "DurableSessions, default settings",
    MEASURED: "the same with telemetry=True, and the metrics of OpenTelemetry's SDK for Prometheus",
    IN_MEMORY: "streamable_http_app(), default settings; nothing outlives the process",
    MCP_PERSIST: "2.2, with_persistence(durable_sessions=True), default settings; it stores the events of streams too",
}
PATHS = {MCP_PERSIST: "/mcp/"}
"""Where the endpoint is, if not at ``/mcp``: a mounted one redirects from there."""


def server() -> MCPServer:
    """Return a server with small tools, which need no thread: threads would hide the cost of all else."""
    made = MCPServer("bench", log_level="ERROR")

    @made.tool()
    async def add(a: int, b: int) -> int:
        return a + b

    @made.tool()
    async def confirm(ctx: Context) -> str:
        schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
        return str((await ctx.session.elicit_form("Sure?", schema, ctx.request_id)).action)

    @made.tool()
    async def announce(ctx: Context) -> str:
        await ctx.session.send_resource_list_changed()
        return "announced"

    return made


def _app_of(kind: str, url: str) -> App:
    """Return the app of a contender; each imports its own library alone."""
    made: App
    if kind in {OURS, MEASURED}:
        from mcp_sessions.asgi import DurableSessions  # noqa: PLC0415 - see above

        if kind == MEASURED:
            from mcp_sessions.telemetry.prometheus import serve_metrics  # noqa: PLC0415

            serve_metrics("127.0.0.1", range(free_port(), 65536))
        made = DurableSessions(server().streamable_http_app(), database_url=url, telemetry=kind == MEASURED)
    elif kind == MCP_PERSIST:
        from mcp_persist import with_persistence  # noqa: PLC0415 - see above

        backend, place = ("sqlite", url.removeprefix("sqlite:///")) if url.startswith("sqlite") else ("postgres", url)
        made = with_persistence(server(), backend=backend, url=place, durable_sessions=True)
    else:
        made = server().streamable_http_app()
    return made


if __name__ == "__main__":
    _, kind, url, port = sys.argv
    uvicorn.run(_app_of(kind, url), host="127.0.0.1", port=int(port), log_level="warning", access_log=False)
