"""Session handles for tools of FastMCP, by its middleware and its tools alone."""

from collections.abc import Sequence
from typing import Any

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.dependencies import get_http_request
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import Tool

from mcp_sessions.asgi import OwnerOf
from mcp_sessions.current import current_session
from mcp_sessions.handles import (
    CreatedSession,
    HandleError,
    Handles,
    SessionHandle,
    given,
    handle_names,
    handles_in,
    without_need,
)
from mcp_sessions.manager import SessionManager

__all__ = ["SessionHandle", "add_session_tools"]


def add_session_tools(
    server: FastMCP[Any], sessions: SessionManager | None = None, *, owner: OwnerOf | None = None
) -> None:
    """Give a server the tools ``create_session`` and ``end_session``, and sessions to arguments of ``SessionHandle``.

    The arguments are those of ``mcp_sessions.mcp.add_session_tools``.
    """
    handles = Handles(sessions, owner)

    @server.tool(
        description=f"Create a session that keeps state across calls, and return its handle. {handles.lifetime}."
    )
    async def create_session() -> CreatedSession:
        return await handles.create(_scope())

    @server.tool(description="End a session, and remove its state. Its handle is of no use any more.")
    async def end_session(session: str) -> str:
        try:
            await handles.end(session, _scope())
        except HandleError as error:
            raise ToolError(str(error)) from None
        return "The session has ended."

    server.add_middleware(_HandleMiddleware(handles))


class _HandleMiddleware(Middleware):
    """Finds the sessions that the arguments of a call name, before the tool is called."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles

    async def on_list_tools(
        self, context: MiddlewareContext[Any], call_next: CallNext[Any, Sequence[Tool]]
    ) -> Sequence[Tool]:
        """Show a client that has a session of its own that it can leave handles out."""
        tools = await call_next(context)
        if current_session() is None:
            return tools
        return [each.model_copy(update={"parameters": without_need(each.parameters)}) for each in tools]

    async def on_call_tool(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """Let a call through, unless it has a handle that cannot be used."""
        server = None if context.fastmcp_context is None else context.fastmcp_context.fastmcp
        tool = None if server is None else await server.get_tool(context.message.name)
        names = [] if tool is None else handle_names(tool.parameters)
        if not names:
            return await call_next(context)
        arguments = context.message.arguments or {}
        try:
            said = handles_in(arguments, names)
            found = await self._handles.find(said.values(), _scope())
        except HandleError as error:
            raise ToolError(str(error)) from None
        message = context.message.model_copy(update={"arguments": {**arguments, **said}})
        with given(found):
            return await call_next(context.copy(message=message))


def _scope() -> dict[str, Any] | None:
    try:
        return dict(get_http_request().scope)
    except RuntimeError:  # no HTTP: a pipe, or a client in the same process
        return None
