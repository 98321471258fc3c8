"""MCP sessions in SQL."""
