"""The repository of sessions that are opened for a reason of their own."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.expressions import GIVEN_LIVES, GIVEN_SESSIONS
from mcp_sessions.db.statements import openings as statements
from mcp_sessions.db.statements.sessions import expiry_window
from mcp_sessions.records.sessions import OWNER_FIELDS, Owner, Session, Timeouts, parts_of


class Opening(NamedTuple):
    """A session to be opened for a reason."""

    digest: bytes
    owner: Owner
    reason: str


class OpeningRepository:
    """Rows of ``sessions`` and the events of their creation, under one set of timeouts."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._bounded = timeouts.absolute is not None
        self._window = expiry_window(timeouts)

    def open(self, connection: Connection, openings: Sequence[Opening]) -> list[bool]:
        """Store sessions, and why they were created; False for one whose digest is taken."""
        opened: dict[int, bool] = {}
        for place in sorted(range(len(openings)), key=lambda place: (openings[place].digest, place)):
            with connection.begin_nested() as part:
                opened[place] = self._is_opened(connection, openings[place])
                if not opened[place]:
                    part.rollback()
        return [opened[place] for place in range(len(openings))]

    def _is_opened(self, connection: Connection, opening: Opening) -> bool:
        dialect, parts = connection.dialect.name, parts_of(opening.owner)
        given = GIVEN_SESSIONS.parameters(dialect, [(opening.digest, *parts)])
        moment = connection.execute(statements.moment_of_creation(dialect), given).scalar_one()
        named = {"session_digest": opening.digest, "moment": moment, **dict(zip(OWNER_FIELDS, parts, strict=True))}
        connection.execute(statements.record_creation(dialect), named | {"reason": opening.reason})
        stored = connection.execute(statements.insert_session(dialect, bounded=self._bounded), named | self._window)
        return stored.first() is not None

    def created_for(self, connection: Connection, sessions: Sequence[Session], *, reason: str) -> set[bytes]:
        """Return the digests of those sessions that were created for this reason, as far as the trail goes back."""
        dialect = connection.dialect.name
        rows = [(each.digest, each.created_at, *parts_of(each.owner), place) for place, each in enumerate(sessions)]
        given = GIVEN_LIVES.parameters(dialect, rows)
        found = connection.execute(statements.created_for(dialect), given | {"reason": reason})
        return {bytes(digest) for (digest,) in found}
