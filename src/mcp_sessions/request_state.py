"""``requestState`` that any worker can open, and that is used once, for servers of the official SDK.

A tool that asks its client something is called again, with the answers and with a state that the client echoes. The SDK
seals that state with a key that each process draws anew, so that no other worker can open it; and whoever has it can
send it twice. The keys of this package open it on all workers, and a ledger in SQL has each of them used once.

Source: specification 2026-07-28, multi round-trip requests.
"""

from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Unpack

from mcp.server.mcpserver import MCPServer
from mcp.server.request_state import RequestStateSecurity
from mcp_types import CallToolResult, TextContent

from mcp_sessions.caller import caller
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.manager import SessionManager
from mcp_sessions.sealing import keys_in
from mcp_sessions.settings import SettingsByName, load_settings

_LEDGER = "request states used"
_USED = (
    "This request has been answered before, and was carried out then: it is not done again. Start anew if it is to be."
)

_received: ContextVar[str | None] = ContextVar("mcp_sessions_request_state", default=None)


def request_state_security(
    *, ttl: timedelta = timedelta(minutes=10), **settings: Unpack[SettingsByName]
) -> RequestStateSecurity:
    """Return what ``MCPServer(request_state_security=…)`` takes, sealed with the keys of ``encryption_keys``.

    Args:
        ttl: how long a client may take to answer.
        settings: any field of ``Settings``, such as ``encryption_keys``; by default from the environment.

    Raises:
        ConfigurationError: there are no keys, or they cannot be read.
    """
    if not (keys := keys_in(load_settings(**settings))):
        raise ConfigurationError(
            "encryption_keys (MCP_SESSIONS_ENCRYPTION_KEYS) must be set: no worker can open what another one sealed "
            "with a key of its own"
        )
    return RequestStateSecurity(keys=keys, ttl=ttl.total_seconds())


def run_once(
    server: MCPServer[Any],
    *tools: str,
    sessions: SessionManager | None = None,
    lifetime: timedelta = timedelta(minutes=20),
) -> None:
    """Have tools run once for each ``requestState``, whichever workers get it how often at the same time.

    Args:
        server: the server, with all of its other middleware.
        tools: the names of the tools.
        sessions: an open manager, whose database keeps the ledger; by default that of the ``DurableSessions`` around.
        lifetime: how long a use is remembered: longer than the state is valid, which is ten minutes by default.
    """
    # What the client sent is known in front of what opens it, and whether that is valid behind it.
    server.middleware.insert(0, _note_received)
    server.middleware.append(_Ledger(frozenset(tools), sessions, lifetime))


async def _note_received(ctx: Any, call_next: Any) -> Any:
    received = (ctx.params or {}).get("requestState") if ctx.method == "tools/call" else None
    token = _received.set(received if isinstance(received, str) else None)
    try:
        return await call_next(ctx)
    finally:
        _received.reset(token)


class _Ledger:
    """Lets the first call with a state through, and no other one."""

    def __init__(self, tools: frozenset[str], sessions: SessionManager | None, lifetime: timedelta) -> None:
        self._tools = tools
        self._sessions = sessions
        self._lifetime = lifetime

    async def __call__(self, ctx: Any, call_next: Any) -> Any:
        """Let a message through, unless it is a call that was made before."""
        state = _received.get()
        if state is None or ctx.method != "tools/call" or ctx.params.get("name") not in self._tools:
            return await call_next(ctx)
        sessions = self._sessions
        if sessions is None:
            if (serving := caller()) is None:
                raise ConfigurationError("run_once needs sessions=, or a DurableSessions around the server")
            sessions = serving.sessions
        if not await sessions.key_values.claim(_LEDGER, state, lifetime=self._lifetime):
            return CallToolResult(content=[TextContent(type="text", text=_USED)], is_error=True)
        return await call_next(ctx)
