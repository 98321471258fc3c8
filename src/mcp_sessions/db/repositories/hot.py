"""The hot sessions repository: what requests wait for: to open, use, restore or end a session."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from functools import partial

from mcp_sessions.db.backend import Backend
from mcp_sessions.db.expressions import GIVEN_ASKED_ENDS, GIVEN_DIGESTS, GIVEN_HANDSHAKES, GIVEN_SESSIONS, GIVEN_USES
from mcp_sessions.db.repositories.sessions import (
    End,
    Ended,
    FoundSession,
    SessionRepository,
    Use,
    row_of,
    rows_of,
    session_of,
    used_session_of,
)
from mcp_sessions.db.statements import ends as end_statements
from mcp_sessions.db.statements import handshakes
from mcp_sessions.db.statements import sessions as statements
from mcp_sessions.records.sessions import NewSession, Session, StoredHandshake, Timeouts, parts_of

_LOCK_TIMEOUT_OF_MANY = timedelta(milliseconds=100)
"""How long a statement for many waits for a lock: long enough for others' transactions, which are short."""


class HotSessionRepository(ABC):
    """Stores, reads, touches and ends sessions; each method for one caller at a time.

    On Postgres nobody waits here for a row that another transaction has locked: touches and ends leave it as it is,
    and what is missing in their answer may be there yet; to store it is a ``DatabaseHeldError`` for all that were to be
    stored with it, of which nothing is stored then. ``insert_apart`` waits.
    """

    def __init__(self, database: Backend, timeouts: Timeouts) -> None:
        self._database = database
        self._sessions = SessionRepository(timeouts)
        dialect = self._dialect = database.dialect
        quiet = {"touch_interval": timeouts.touch_interval}
        self._window = statements.expiry_window(timeouts)
        self._bounded = timeouts.absolute is not None
        self._find = database.hot_statement(statements.find_sessions(dialect), quiet)
        touch = statements.touch(dialect, bounded=self._bounded)
        self._touch = database.hot_statement(touch, self._window, writes=True)
        self._find_handshakes = database.hot_statement(handshakes.find_handshakes(dialect), {})

    @abstractmethod
    async def insert(self, new: Sequence[NewSession]) -> set[bytes]:
        """Store new sessions and return the digests stored; one that is missing was taken, and is untouched."""

    @abstractmethod
    async def end(self, ends: Sequence[End]) -> Ended:
        """End the live sessions that these uses are entitled to; of several uses, the first ends the session."""

    async def insert_apart(self, new: Sequence[NewSession]) -> set[bytes]:
        """Store like ``insert``, but wait where another transaction is about to store the same."""
        return await self._database.write(partial(self._sessions.insert, new=new))

    async def is_free(self, digest: bytes) -> bool:
        """Tell whether there is a row of this digest, expired or not, that no other transaction has locked."""
        return await self._database.write(partial(self._sessions.is_free, digest=digest), repeatable=True)

    async def find(self, digests: Collection[bytes]) -> dict[bytes, FoundSession]:
        """Read the rows of these digests, expired ones included; records no activity."""
        given = GIVEN_DIGESTS.parameters(self._dialect, [(digest,) for digest in digests])
        found = {}
        for *columns, is_live, is_due in await self._find.fetch(given):
            session = used_session_of(columns)
            found[session.digest] = FoundSession(session, bool(is_live), bool(is_due))
        return found

    async def touch(self, uses: Iterable[Use]) -> dict[bytes, Session]:
        """Record activity of the live sessions that these uses are entitled to, and return them."""
        given = GIVEN_USES.parameters(self._dialect, rows_of(uses))
        rows = await self._touch.fetch(given)
        return {session.digest: session for session in map(used_session_of, rows)}

    async def find_handshakes(self, digests: Collection[bytes]) -> dict[bytes, StoredHandshake]:
        """Return the recorded handshakes of these sessions; one that has none is missing."""
        given = GIVEN_DIGESTS.parameters(self._dialect, [(digest,) for digest in digests])
        rows = await self._find_handshakes.fetch(given)
        return {bytes(digest): StoredHandshake(*handshake) for digest, *handshake in rows}


class _InOneStatement(HotSessionRepository):
    """On Postgres: to store a session with its handshake, and to end one with its event, is one statement each."""

    def __init__(self, database: Backend, timeouts: Timeouts) -> None:
        super().__init__(database, timeouts)
        insert = handshakes.insert_with_handshakes(bounded=self._bounded)
        self._insert = database.hot_statement(
            insert, self._window, writes=True, repeatable=False, lock_timeout=_LOCK_TIMEOUT_OF_MANY
        )
        self._end = database.hot_statement(end_statements.end_sessions(), {}, writes=True, repeatable=False)

    async def insert(self, new: Sequence[NewSession]) -> set[bytes]:
        """Store new sessions."""
        recorded = [
            (each.digest, each.handshake.protocol_version, each.handshake.initialize, each.handshake.key_id)
            for each in new
            if each.handshake is not None
        ]
        given = {
            **GIVEN_SESSIONS.parameters(self._dialect, [(each.digest, *parts_of(each.owner)) for each in new]),
            **GIVEN_HANDSHAKES.parameters(self._dialect, recorded),
        }
        return {bytes(digest) for (digest,) in await self._insert.fetch(given)}

    async def end(self, ends: Sequence[End]) -> Ended:
        """End sessions."""
        asked = [(*row_of(use), reason, actor, position) for position, (use, reason, actor) in enumerate(ends)]
        found: dict[bytes, Session] = {}
        ended: dict[int, Session] = {}
        for *columns, position in await self._end.fetch(GIVEN_ASKED_ENDS.parameters(self._dialect, asked)):
            session = session_of(columns)
            found[session.digest] = session
            if position is not None:
                ended[position] = session
        return Ended([ended.get(position) for position in range(len(ends))], found)


class _InUnitsOfWork(HotSessionRepository):
    """On SQLite, which cannot write to two tables in one statement."""

    async def insert(self, new: Sequence[NewSession]) -> set[bytes]:
        """Store new sessions."""
        return await self.insert_apart(new)

    async def end(self, ends: Sequence[End]) -> Ended:
        """End sessions."""
        return await self._database.write(partial(self._sessions.end, ends=ends))


_OF_ENGINES: dict[str, type[HotSessionRepository]] = {"postgresql": _InOneStatement, "sqlite": _InUnitsOfWork}


def hot_sessions(database: Backend, timeouts: Timeouts) -> HotSessionRepository:
    """Return the hot sessions of a database, in the way of its engine."""
    return _OF_ENGINES[database.dialect](database, timeouts)
