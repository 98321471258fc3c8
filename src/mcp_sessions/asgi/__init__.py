"""Durable sessions for any streamable HTTP MCP app, as plain ASGI.

``DurableSessions`` wraps an app. It gives each client a session id of its own, keeps the app's to itself, checks every
request against the database, and restores on this worker what another one opened, so that any worker serves any
session and no restart loses one. See ``docs/how-to/serve.md``.
"""

from mcp_sessions.asgi.middleware import DurableSessions
from mcp_sessions.asgi.owner import OwnerOf, bearer_owner
from mcp_sessions.asgi.requests import SCOPE_KEY
from mcp_sessions.asgi.settings import HttpSettings

__all__ = ["SCOPE_KEY", "DurableSessions", "HttpSettings", "OwnerOf", "bearer_owner"]
