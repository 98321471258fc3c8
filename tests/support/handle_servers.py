"""MCP servers whose tools take session handles: the same tools on the official SDK and on FastMCP."""

from collections.abc import Callable
from typing import Any

from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl

import mcp_sessions.fastmcp
import mcp_sessions.mcp
from mcp_sessions import SessionManager
from mcp_sessions.handles import SessionHandle
from tests.support.mcp_servers import ISSUER, PRINCIPALS, SCOPE, TokenVerifier


async def add_item(session: SessionHandle, item: str) -> str:
    """Put something into the cart."""
    cart = await session.state.update("cart", lambda cart: [*(cart or []), item])
    return ", ".join(cart)


async def which(session: SessionHandle) -> str:
    """Tell the digest of the session."""
    return session.session.digest.hex()


def merge(one: SessionHandle, other: SessionHandle) -> str:
    """Tell the digests of two sessions."""
    return f"{one.session.short_digest} {other.session.short_digest}"


def sdk_server(sessions: SessionManager | None, *, auth: bool) -> MCPServer[Any]:
    """A server of the official SDK."""
    settings: dict[str, Any] = {
        "token_verifier": TokenVerifier(),
        "auth": AuthSettings(
            issuer_url=AnyHttpUrl(ISSUER),
            resource_server_url=AnyHttpUrl("https://notes.example/mcp"),
            required_scopes=[SCOPE],
            validate_token_resource=False,
        ),
    }
    server: MCPServer[Any] = MCPServer("carts", log_level="WARNING", **(settings if auth else {}))
    mcp_sessions.mcp.add_session_tools(server, sessions)
    for tool in (add_item, which, merge):
        server.add_tool(tool)
    return server


def fastmcp_server(sessions: SessionManager | None, *, auth: bool) -> FastMCP[Any]:
    """A server of FastMCP."""
    tokens = {
        token: {"client_id": who.client_id, "scopes": list(who.scopes), **who.claims}
        for token, who in PRINCIPALS.items()
    }
    server: FastMCP[Any] = FastMCP("carts", auth=StaticTokenVerifier(tokens, required_scopes=[SCOPE]) if auth else None)
    mcp_sessions.fastmcp.add_session_tools(server, sessions)
    for tool in (add_item, which, merge):
        server.tool(tool)
    return server


def sdk_app(*, auth: bool) -> Any:
    """The app of such a server."""
    return sdk_server(None, auth=auth).streamable_http_app(json_response=True)


def fastmcp_app(*, auth: bool) -> Any:
    """The app of such a server."""
    return fastmcp_server(None, auth=auth).http_app(json_response=True)


SERVERS: dict[str, Callable[..., Any]] = {"sdk": sdk_app, "fastmcp": fastmcp_app}
"""Apps by the SDK that they are of; they take the sessions of whatever serves them."""
