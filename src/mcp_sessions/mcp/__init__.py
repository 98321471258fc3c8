"""What plugs into a server of the official ``mcp`` SDK, by its public seams."""

from mcp_sessions.mcp.subscriptions import SqlSubscriptionBus

__all__ = ["SqlSubscriptionBus"]
