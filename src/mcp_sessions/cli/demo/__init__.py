"""``mcp-sessions demo``: the whole point, on the machine itself, with real workers and a real MCP client.

``command`` parses and is all that the other commands load; the rest needs what only those have who serve.
"""
