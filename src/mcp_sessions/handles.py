"""Handles: sessions that a tool is told by an argument, on revisions that have no sessions of their own.

A handle is a session id that a tool gave out instead of the HTTP layer, so what it names is a session like any other:
the same row, owner check, expiry, state and trail. A middleware looks at the arguments before a tool is called: what
they name is resumed for the verified principal of this very call, and is there when the argument is validated. Whatever
cannot be used, be it unknown, expired, ended or somebody else's, is one error that tells how to go on.

A client of an older revision may leave the argument out: it has a session already.

Source: the specification's advice on stateful tools, revision 2026-07-28.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from mcp_sessions.asgi import OwnerOf, bearer_owner
from mcp_sessions.asgi.owner import owner_of
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.caller import caller
from mcp_sessions.current import current_session
from mcp_sessions.errors import InvalidSessionIdError, McpSessionsError
from mcp_sessions.manager import SessionManager
from mcp_sessions.records.events import CREATED_BY_TOOL
from mcp_sessions.records.sessions import Owner, Session
from mcp_sessions.settings import load
from mcp_sessions.state import SessionState

FORMAT = "mcp-session-handle"
"""The format of an argument that is a handle, in the JSON schema of a tool."""

_DESCRIPTION = (
    "The handle of a session, as the tool that creates sessions returned it. It expires when it has not been used for "
    "some time, which that tool tells; a new one is to be created then. Whoever has a handle may use the session: keep "
    "it to this conversation."
)
_ADVICE = "Create a session with the tool for that, and pass the handle that it returns"
_UNUSABLE = (
    f"There is no session with this handle: it is unknown, it has expired or ended, or it is not yours. {_ADVICE}."
)
_MISSING = f"This call needs the handle of a session. {_ADVICE}."

_given: ContextVar["Mapping[str, SessionHandle] | None"] = ContextVar("mcp_sessions_given", default=None)


class HandleError(McpSessionsError):
    """A tool was called without a handle that can be used; the message tells a model how to go on."""


class SessionHandle:
    """A tool's argument that names a session: the model passes text, and the tool gets the session with its state.

    Attributes:
        session: the session, which this call's principal owns; its activity is recorded.
        state: the session's state.
    """

    def __init__(self, session: Session, state: SessionState) -> None:
        self.session = session
        self.state = state

    def __repr__(self) -> str:
        return f"SessionHandle({self.session.short_digest})"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_resolved)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": FORMAT, "description": _DESCRIPTION}


class CreatedSession(BaseModel):
    """What the tool that creates sessions returns."""

    session: str = Field(description="The handle: pass it as the argument that asks for one.")
    expires_at: datetime = Field(description="When it expires, if it is not used before.")


def _resolved(value: object) -> SessionHandle:
    found = (_given.get() or {}).get(value if isinstance(value, str) else "")
    if found is None:
        raise ValueError("handles are not looked up: add_session_tools was not called for this server")
    return found


class Handles:
    """Opens, finds and ends sessions by handle.

    Args:
        sessions: an open manager; None for that of the ``DurableSessions`` which serves the request.
        owner: tells the owner from the ASGI scope of a request, where no ``DurableSessions`` has done so.
    """

    def __init__(self, sessions: SessionManager | None, owner: OwnerOf | None) -> None:
        self._sessions = sessions
        self._owner = owner or bearer_owner(load(HttpSettings, {}).tenant_claim)

    @property
    def lifetime(self) -> str:
        """How long a session lives, in words for a model."""
        if self._sessions is None:
            return "It expires when it has not been used for some time; the answer tells when"
        timeouts = self._sessions.settings.timeouts
        idle = f"It expires when it has not been used for {_in_words(timeouts.idle)}"
        return idle if timeouts.absolute is None else f"{idle}, and after {_in_words(timeouts.absolute)} in any case"

    async def create(self, scope: dict[str, Any] | None) -> CreatedSession:
        """Open a session for whoever calls, and return its handle."""
        owner, sessions = await self._owner_in(scope), self._open_sessions()
        handle = await sessions.create_session(
            tenant_id=owner.tenant_id,
            client_id=owner.client_id,
            issuer=owner.issuer,
            subject=owner.subject,
            reason=CREATED_BY_TOOL,
        )
        session = await sessions.resume_session(handle, owner)
        if session is None:
            raise HandleError(_UNUSABLE)
        return CreatedSession(session=handle, expires_at=session.expires_at)

    async def end(self, handle: str, scope: dict[str, Any] | None) -> None:
        """End a session of whoever calls.

        Raises:
            HandleError: there is none with this handle.
        """
        try:
            ended = await self._open_sessions().terminate_session(handle, owner=await self._owner_in(scope))
        except InvalidSessionIdError:
            ended = False
        if not ended:
            raise HandleError(_UNUSABLE)

    async def find(self, handles: Collection[str], scope: dict[str, Any] | None) -> dict[str, SessionHandle]:
        """Return the sessions of these handles; that of the request for an empty one.

        Raises:
            HandleError: one cannot be used by whoever calls.
        """
        return {handle: await self._found(handle, scope) for handle in dict.fromkeys(handles)}

    async def _found(self, handle: str, scope: dict[str, Any] | None) -> SessionHandle:
        sessions = self._open_sessions()
        if handle == "":
            if (session := current_session()) is None:
                raise HandleError(_MISSING)
            return SessionHandle(session, sessions.state(session))
        try:
            session = await sessions.resume_session(handle, await self._owner_in(scope))
        except InvalidSessionIdError:
            session = None
        if session is None:
            raise HandleError(_UNUSABLE)
        return SessionHandle(session, sessions.state(session))

    def _open_sessions(self) -> SessionManager:
        if self._sessions is not None:
            return self._sessions
        if (serving := caller()) is None:
            raise HandleError("This server has no sessions here: it must be served by DurableSessions, or given some.")
        return serving.sessions

    async def _owner_in(self, scope: dict[str, Any] | None) -> Owner:
        if (serving := caller()) is not None:
            return serving.owner
        return Owner() if scope is None else await owner_of(scope, self._owner)


def handle_names(schema: Mapping[str, Any]) -> list[str]:
    """Return the arguments that are handles, by the JSON schema of a tool."""
    properties = schema.get("properties", {})
    return [name for name, about in properties.items() if isinstance(about, dict) and about.get("format") == FORMAT]


def handles_in(arguments: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return what a call says of the arguments that are handles: empty where they are left out.

    Raises:
        HandleError: one is no text.
    """
    said = {name: arguments.get(name) for name in names}
    if not all(each is None or isinstance(each, str) for each in said.values()):
        raise HandleError(_UNUSABLE)
    return {name: each or "" for name, each in said.items()}


def without_need(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a tool's schema as a client with a session of its own may see it: it can leave handles out."""
    names = handle_names(schema)
    return {**schema, "required": [each for each in schema.get("required", ()) if each not in names]}


@contextmanager
def given(found: Mapping[str, SessionHandle]) -> Iterator[None]:
    """Have arguments that say this become these sessions."""
    token = _given.set(found)
    try:
        yield
    finally:
        _given.reset(token)


def _in_words(time: timedelta) -> str:
    minutes = time / timedelta(minutes=1)
    if minutes < 1:
        return f"{time.total_seconds():g} seconds"
    return f"{minutes:g} minutes" if minutes < 120 else f"{minutes / 60:g} hours"  # noqa: PLR2004 - as people count
