"""What test servers of any make run to see what is logged: an app, and one that nobody started, with durable sessions.

``KIND`` of the environment names the wrapped app, and with it who sets up logging: nobody, the SDK, or the author.
"""

import logging.config
import os
import sqlite3
from contextlib import closing

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import App

KIND = os.environ["KIND"]
FILE = "sessions.db"


def app_of(kind: str) -> App:
    """The app to wrap."""
    if kind == "fastmcp":
        from fastmcp import FastMCP  # noqa: PLC0415 - it takes its time

        return FastMCP("notes").http_app()
    from mcp.server.lowlevel import Server  # noqa: PLC0415
    from mcp.server.mcpserver import MCPServer  # noqa: PLC0415

    return MCPServer("notes").streamable_http_app() if kind == "sdk" else Server("notes").streamable_http_app()


async def lose_table(_request: Request) -> PlainTextResponse:
    """Make the database fail."""
    with closing(sqlite3.connect(FILE)) as file:
        file.execute("ALTER TABLE sessions RENAME TO elsewhere")
    return PlainTextResponse("lost")


durable = DurableSessions(app_of(KIND), database_url=f"sqlite:///{FILE}")
forgotten = DurableSessions(app_of(KIND), database_url=f"sqlite:///{FILE}")
app = Starlette(
    routes=[Route("/lose", lose_table), Mount("/forgotten", app=forgotten), Mount("/", app=durable)],
    lifespan=durable.lifespan,
)
if KIND == "configured":  # as it stands in many a project, without a word of the loggers that are there already
    logging.config.dictConfig(
        {
            "version": 1,
            "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": "INFO", "handlers": ["stderr"]},
        }
    )
