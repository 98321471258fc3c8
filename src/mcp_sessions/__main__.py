"""``python -m mcp_sessions``: the command line, where no ``mcp-sessions`` is on the path."""

from mcp_sessions.cli import main

if __name__ == "__main__":
    main()
