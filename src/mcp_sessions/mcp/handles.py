"""Session handles for tools of the official SDK's ``MCPServer``, by its middleware and its tools alone."""

from dataclasses import replace
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent

from mcp_sessions.asgi import OwnerOf
from mcp_sessions.current import current_session
from mcp_sessions.handles import (
    CreatedSession,
    HandleError,
    Handles,
    given,
    handle_names,
    handles_in,
    without_need,
)
from mcp_sessions.manager import SessionManager


def add_session_tools(
    server: MCPServer[Any], sessions: SessionManager | None = None, *, owner: OwnerOf | None = None
) -> None:
    """Give a server the tools ``create_session`` and ``end_session``, and sessions to arguments of ``SessionHandle``.

    Args:
        server: the server.
        sessions: an open manager; by default that of the ``DurableSessions`` or ``mcp-sessions serve`` around it.
        owner: tells the owner from the ASGI scope of a request, as for ``DurableSessions``, which does so itself.
    """
    handles = Handles(sessions, owner)

    @server.tool(
        description=f"Create a session that keeps state across calls, and return its handle. {handles.lifetime}."
    )
    async def create_session(ctx: Context[Any, Any]) -> CreatedSession:
        return await handles.create(_scope_of(ctx.request_context.request))

    @server.tool(description="End a session, and remove its state. Its handle is of no use any more.")
    async def end_session(ctx: Context[Any, Any], session: str) -> str:
        try:
            await handles.end(session, _scope_of(ctx.request_context.request))
        except HandleError as error:
            raise ToolError(str(error)) from None
        return "The session has ended."

    server.middleware.append(_HandleMiddleware(server, handles))


class _HandleMiddleware:
    """Finds the sessions that the arguments of a call name, before the tool is called."""

    def __init__(self, server: MCPServer[Any], handles: Handles) -> None:
        self._server = server
        self._handles = handles

    async def __call__(self, ctx: Any, call_next: Any) -> Any:
        """Let a message through; a call with a handle that cannot be used is answered here."""
        if ctx.method == "tools/list" and current_session() is not None:
            return _with_optional_handles(await call_next(ctx))
        if ctx.method != "tools/call" or ctx.params is None:
            return await call_next(ctx)
        names = await self._names_in(ctx.params.get("name"))
        arguments = ctx.params.get("arguments") or {}
        if not names or not isinstance(arguments, dict):
            return await call_next(ctx)
        try:
            said = handles_in(arguments, names)
            found = await self._handles.find(said.values(), _scope_of(ctx.request))
        except HandleError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        with given(found):
            return await call_next(replace(ctx, params={**ctx.params, "arguments": {**arguments, **said}}))

    async def _names_in(self, tool: object) -> list[str]:
        schemas = (each.input_schema for each in await self._server.list_tools() if each.name == tool)
        return next((handle_names(schema) for schema in schemas), [])


def _scope_of(request: Any) -> dict[str, Any] | None:
    return None if request is None else request.scope


def _with_optional_handles(listed: dict[str, Any]) -> dict[str, Any]:
    tools = [{**each, "inputSchema": without_need(each["inputSchema"])} for each in listed["tools"]]
    return {**listed, "tools": tools}
