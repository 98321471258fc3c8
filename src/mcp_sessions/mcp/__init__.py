"""What plugs into a server of the official ``mcp`` SDK, by its public seams."""

from mcp_sessions.handles import SessionHandle
from mcp_sessions.mcp.handles import add_session_tools
from mcp_sessions.mcp.subscriptions import SqlSubscriptionBus
from mcp_sessions.request_state import request_state_security, run_once

__all__ = ["SessionHandle", "SqlSubscriptionBus", "add_session_tools", "request_state_security", "run_once"]
