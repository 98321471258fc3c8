"""The server that ``mcp-sessions serve`` serves by itself, and an example of how to write one of your own.

Its tools ask for a session by an argument, a ``SessionHandle``. A client of the newest revision, which has no sessions,
creates one with the tool ``create_session`` and passes its handle; an older client may leave it out, and gets the
session that its ``Mcp-Session-Id`` names. Either way the session is in the database. Call ``this_worker`` twice with
several workers, and two processes answer; call ``this_session``, and both tell of the same session. ``remember`` and
``recall`` keep notes in its state. Stop everything, start it again, and all of it is still there.
"""

import asyncio
import os
import socket
from datetime import datetime

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from mcp_sessions.mcp import SessionHandle, add_session_tools

server = MCPServer("mcp-sessions example", log_level="WARNING")
add_session_tools(server)


class SessionFacts(BaseModel):
    """A session as the database knows it."""

    digest: str
    tenant_id: str | None
    client_id: str | None
    subject: str | None
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime


class WorkerFacts(BaseModel):
    """The process that answers."""

    host: str
    pid: int


@server.tool()
def this_session(session: SessionHandle) -> SessionFacts:
    """Tell what the database knows about this session: the same on every worker."""
    found = session.session
    return SessionFacts(
        digest=found.short_digest,
        tenant_id=found.owner.tenant_id,
        client_id=found.owner.client_id,
        subject=found.owner.subject,
        created_at=found.created_at,
        last_activity_at=found.last_activity_at,
        expires_at=found.expires_at,
    )


@server.tool()
def this_worker() -> WorkerFacts:
    """Tell which process answers: any one of them, from call to call."""
    return WorkerFacts(host=socket.gethostname(), pid=os.getpid())


@server.tool()
async def remember(session: SessionHandle, text: str) -> list[str]:
    """Keep a note for this session, and return all of its notes."""
    notes: list[str] = await session.state.update("notes", lambda notes: [*(notes or []), text])
    return notes


@server.tool()
async def recall(session: SessionHandle) -> list[str]:
    """Return the notes of this session, whichever worker took them, and no other session's."""
    notes: list[str] = await session.state.get("notes", default=[])
    return notes


@server.tool()
async def count(ctx: Context, to: int = 5, pause_seconds: float = 1.0) -> str:
    """Count slowly and report progress. Stop the server meanwhile: it lets this call finish."""
    for step in range(1, to + 1):
        await asyncio.sleep(pause_seconds)
        await ctx.report_progress(step, to, f"{step} of {to}")
    return f"counted to {to} in process {os.getpid()}"
