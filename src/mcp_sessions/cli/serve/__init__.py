"""``mcp-sessions serve``: an app, found by its name, with durable sessions under uvicorn.

``command`` parses and is all that the other commands load; the rest needs what only those have who serve.
"""
