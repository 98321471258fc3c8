"""What a worker process runs: one of the tests' MCP servers with durable sessions, under uvicorn.

All settings of the sessions come from the environment. Everything it has to say goes to its standard error.
"""

import logging
import math
import sys

import uvicorn

from mcp_sessions.asgi import DurableSessions
from tests.support.mcp_servers import APPS

_KEPT_ALIVE = 600
"""Seconds that a connection waits for its next request: longer than any test, so that a cut is the worker's doing and
never a request that crossed with the closing of a connection that was idle for uvicorn's five seconds."""

if __name__ == "__main__":
    kind, auth, port = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    app = DurableSessions(APPS[kind](auth=auth == "auth"))
    patience = math.ceil(app.http_settings.drain_timeout.total_seconds())
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(port),
        log_config=None,
        timeout_keep_alive=_KEPT_ALIVE,
        timeout_graceful_shutdown=patience,
    )
