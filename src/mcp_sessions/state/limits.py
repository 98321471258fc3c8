"""How much state a session may have, and the errors that name the setting which says so."""

from typing import NoReturn

from mcp_sessions.db.repositories import Outcome
from mcp_sessions.errors import SessionEndedError, StateLimitError
from mcp_sessions.settings import ENV_PREFIX, Settings
from mcp_sessions.state.values import json_of


class StateLimits:
    """The limits of one deployment."""

    def __init__(self, settings: Settings) -> None:
        self.max_value = settings.max_state_value
        self.max_entries = settings.max_state_entries
        self.max_size = settings.max_state_size

    def text_of(self, name: str, value: object) -> str:
        """Return a value as JSON text.

        Raises:
            InvalidInputError: it is no JSON value.
            StateLimitError: it is too long.
        """
        if (text := json_of(value, most=self.max_value)) is None:
            limit = _setting("max_state_value", self.max_value)
            raise StateLimitError(f"the value of {name!r} has more bytes than a value may have: {limit}")
        return text

    def refuse(self, outcome: Outcome, name: str) -> NoReturn:
        """Raise the error that says why a change of this entry was not made."""
        if outcome == "gone":
            raise SessionEndedError
        if outcome == "entries":
            limit = _setting("max_state_entries", self.max_entries)
            raise StateLimitError(f"with {name!r} the session's state would have more entries than it may: {limit}")
        limit = _setting("max_state_size", self.max_size)
        raise StateLimitError(f"with {name!r} the session's state would have more bytes than it may: {limit}")


def _setting(name: str, value: int) -> str:
    return f"{name} ({ENV_PREFIX}{name.upper()}) is {value}"
