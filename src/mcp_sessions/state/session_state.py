"""The state of one session, as a server's code uses it."""

from collections.abc import Callable
from typing import Any

from mcp_sessions.db.repositories import Life
from mcp_sessions.errors import InvalidInputError
from mcp_sessions.records.sessions import Session
from mcp_sessions.state.calls import StateCalls
from mcp_sessions.state.values import checked_name


class SessionState:
    """JSON values by name, which belong to one session, are the same on every worker, and end with the session.

    ``SessionManager.state`` makes one. Nothing is kept in memory: each call asks the database. Calls that are made at
    the same time share statements, and what was answered has been committed.

    Every method raises ``SessionEndedError`` where the session has ended, has expired or is another owner's,
    ``InvalidInputError`` for a name or a value that cannot be stored, and the errors of ``SessionManager``. Those that
    store something raise ``StateLimitError`` where it would be too much; the settings ``max_state_value``,
    ``max_state_entries`` and ``max_state_size`` say what is.
    """

    def __init__(self, calls: StateCalls, session: Session) -> None:
        if not isinstance(session, Session):
            raise InvalidInputError(f"state belongs to a Session, as resume_session returns it, not {type(session)}")
        self._calls = calls
        self._life = Life(session.digest, session.created_at, session.owner)

    async def get(self, name: str, default: Any = None) -> Any:
        """Return the value of this name, or the default where there is none."""
        return await self._calls.get(self._life, checked_name(name), default)

    async def set(self, name: str, value: Any) -> None:
        """Store a value under this name, whatever stood there: None, a bool, a number, text, lists and dicts of these.

        A value comes back as it was given. What JSON would change is refused: NaN, tuples, keys that are no text.
        """
        await self._calls.set(self._life, checked_name(name), value)

    async def update(self, name: str, function: Callable[[Any], Any]) -> Any:
        """Change a value in one atomic step, and return the new one.

        The function gets the value there is, or None, and returns the one to store. Where another worker was first, it
        is called again with what that one stored: so it should do nothing but compute. It runs while the database
        holds nothing for it. Where it raises, nothing is changed. It must not be async.

        Raises:
            DatabaseError: as for all methods; whether the change was made is not known then.
        """
        if not callable(function):
            raise InvalidInputError(f"update takes a function of the value, not {type(function).__name__}")
        return await self._calls.update(self._life, checked_name(name), function)

    async def delete(self, name: str) -> None:
        """Remove the value of this name, if there is one."""
        await self._calls.delete(self._life, checked_name(name))

    async def all(self) -> dict[str, Any]:
        """Return all values by their names, as they were at one moment."""
        return await self._calls.all(self._life)

    async def clear(self) -> None:
        """Remove all values."""
        await self._calls.clear(self._life)

    async def sizes(self) -> dict[str, int]:
        """Return the names of all values, and how many bytes each has as JSON."""
        return await self._calls.sizes(self._life)
