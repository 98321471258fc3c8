"""What servers keep: the state of sessions, which ends with them, and the key-value store."""

from mcp_sessions.state.calls import StateCalls
from mcp_sessions.state.key_values import KeyValues
from mcp_sessions.state.session_state import SessionState

__all__ = ["KeyValues", "SessionState", "StateCalls"]
