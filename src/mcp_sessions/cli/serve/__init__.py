"""``mcp-sessions serve``: an app, found by its name, with durable sessions under uvicorn.

``command`` parses and is all that the other commands load; the rest needs what only those have who serve. It calls
``startup``, which goes from the options to a running server: ``load_app`` finds the app, ``server`` runs it under
uvicorn. Helpers of that: ``log_format`` for its log lines, ``new_connections`` for the end of its socket,
``metrics`` for the ports of Prometheus.
"""
