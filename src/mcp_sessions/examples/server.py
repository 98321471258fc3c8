"""The server that ``mcp-sessions serve`` serves by itself, and an example of how to write one of your own.

Nothing in the server knows that its sessions are durable: ``mcp-sessions serve mcp_sessions.examples.server:server``
makes them so. Its tools may know, and these show what there is to see. Call ``this_worker`` twice with several workers,
and two processes answer; call ``this_session``, and both tell of the same session. Stop everything, start it again,
and it is still the same.

``remember`` and ``recall`` keep state of their own across calls, workers and restarts: notes, by the digest of the
session, in an SQLite file of the example's own (``EXAMPLE_NOTES`` names another). Workers on many machines would need
a database that they share, and a server for many users would remove the notes of sessions that have ended.
"""

import asyncio
import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

from mcp_sessions.asgi import SCOPE_KEY
from mcp_sessions.records.sessions import Session

NOTES = os.environ.get("EXAMPLE_NOTES", "mcp-sessions-example.db")
"""The file that the notes are kept in, made when it is first needed."""

server = MCPServer("mcp-sessions example", log_level="WARNING")


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
def this_session(ctx: Context) -> SessionFacts:
    """Tell what the database knows about this session: the same on every worker."""
    session = session_of(ctx)
    return SessionFacts(
        digest=session.short_digest,
        tenant_id=session.owner.tenant_id,
        client_id=session.owner.client_id,
        subject=session.owner.subject,
        created_at=session.created_at,
        last_activity_at=session.last_activity_at,
        expires_at=session.expires_at,
    )


@server.tool()
def this_worker() -> WorkerFacts:
    """Tell which process answers: any one of them, from call to call."""
    return WorkerFacts(host=socket.gethostname(), pid=os.getpid())


@server.tool()
def remember(ctx: Context, text: str) -> list[str]:
    """Keep a note for this session, and return all of its notes."""
    with _notes() as database:
        database.execute("INSERT INTO notes VALUES (?, ?)", (session_of(ctx).digest, text))
    return recall(ctx)


@server.tool()
def recall(ctx: Context) -> list[str]:
    """Return the notes of this session, whichever worker took them, and no other session's."""
    with _notes() as database:
        found = database.execute("SELECT text FROM notes WHERE session = ? ORDER BY rowid", (session_of(ctx).digest,))
        return [text for (text,) in found]


@contextlib.contextmanager
def _notes() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(NOTES)) as database, database:  # closed, and committed before
        database.execute("CREATE TABLE IF NOT EXISTS notes (session BLOB NOT NULL, text TEXT NOT NULL)")
        yield database


@server.tool()
async def count(ctx: Context, to: int = 5, pause_seconds: float = 1.0) -> str:
    """Count slowly and report progress. Stop the server meanwhile: it lets this call finish."""
    for step in range(1, to + 1):
        await asyncio.sleep(pause_seconds)
        await ctx.report_progress(step, to, f"{step} of {to}")
    return f"counted to {to} in process {os.getpid()}"


def session_of(ctx: Context) -> Session:
    """Return the durable session of a call.

    State of your own belongs in a database of your own. ``session.digest`` is the key for it: it is the same on every
    worker, and no secret, which the session id is.
    """
    request: Any = ctx.request_context.request  # a Starlette request
    session: Session | None = request.scope.get(SCOPE_KEY)
    if session is None:
        raise ToolError("this request has no session: the protocol has none from revision 2026-07-28 on")
    return session
