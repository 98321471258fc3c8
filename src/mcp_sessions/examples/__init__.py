"""An example MCP server (``server``), which ``mcp-sessions serve`` runs where no other is named, and the ``demo``."""
