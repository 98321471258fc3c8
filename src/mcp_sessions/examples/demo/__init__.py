"""What ``mcp-sessions demo`` shows: sessions outlive their workers.

``run`` makes a database and ends what was begun, ``workers`` starts and kills processes, ``client`` speaks MCP to them,
``scenario`` is what happens, step by step, each step checked, and ``report`` prints it.
"""

from mcp_sessions.errors import McpSessionsError


class DemoFailedError(McpSessionsError):
    """A step of the demo did not end as it should."""
