"""What plugs into a server of the official ``mcp`` SDK, by its public seams."""

from mcp_sessions.handles import SessionHandle
from mcp_sessions.mcp.handles import add_session_tools
from mcp_sessions.mcp.subscriptions import SqlSubscriptionBus

__all__ = ["SessionHandle", "SqlSubscriptionBus", "add_session_tools"]
