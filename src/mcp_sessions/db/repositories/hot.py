"""The hot sessions repository: what requests wait for, on lanes: to open, use, restore or end a session."""

from collections.abc import Collection, Iterable, Sequence
from functools import partial

from mcp_sessions.db.database import Database
from mcp_sessions.db.expressions import GIVEN_DIGESTS, GIVEN_HANDSHAKES, GIVEN_SESSIONS, GIVEN_USES, GIVEN_WISHES
from mcp_sessions.db.repositories.sessions import (
    End,
    Ended,
    FoundSession,
    SessionRepository,
    Use,
    row_of,
    rows_of,
    session_of,
)
from mcp_sessions.db.statements import ends as end_statements
from mcp_sessions.db.statements import handshakes
from mcp_sessions.db.statements import sessions as statements
from mcp_sessions.records.sessions import Handshake, NewSession, Session, Timeouts, parts_of

_LOCK_TIMEOUT_OF_MANY = 0.1
"""Seconds that a statement for many waits for a lock: long enough for others' transactions, which are short."""


class HotSessionRepository:
    """Stores, reads, touches and ends sessions; each method for one caller at a time.

    On Postgres nobody waits here for a row that another transaction has locked: touches and ends leave it as it is,
    and what is missing in their answer may be there yet; to store it is a ``DatabaseHeldError`` for all that were to be
    stored with it, of which nothing is stored then. ``insert_apart`` waits.

    SQLite cannot write to two tables in one statement: there, to store and to end are units of work.
    """

    def __init__(self, database: Database, timeouts: Timeouts) -> None:
        self._database = database
        self._sessions = SessionRepository(timeouts)
        dialect = self._dialect = database.dialect
        quiet = {"minus_touch_interval": -timeouts.touch_interval}
        window = statements.expiry_window(timeouts)
        bounded = timeouts.absolute is not None
        self._find = database.lane(statements.find_sessions(dialect), quiet)
        self._touch = database.lane(statements.touch(dialect, bounded=bounded), window, writes=True)
        self._find_handshakes = database.lane(handshakes.find_handshakes(dialect), {})
        self._insert = self._end = None
        if dialect == "postgresql":
            insert = handshakes.insert_with_handshakes(bounded=bounded)
            self._insert = database.lane(
                insert, window, writes=True, repeatable=False, lock_timeout=_LOCK_TIMEOUT_OF_MANY
            )
            self._end = database.lane(end_statements.end_sessions(), {}, writes=True, repeatable=False)

    async def insert(self, new: Sequence[NewSession]) -> set[bytes]:
        """Store new sessions and return the digests stored; one that is missing was taken, and is untouched."""
        if self._insert is None:
            return await self.insert_apart(new)
        recorded = [
            (each.digest, each.handshake.protocol_version, each.handshake.initialize)
            for each in new
            if each.handshake is not None
        ]
        given = {
            **GIVEN_SESSIONS.parameters(self._dialect, [(each.digest, *parts_of(each.owner)) for each in new]),
            **GIVEN_HANDSHAKES.parameters(self._dialect, recorded),
        }
        return {bytes(digest) for (digest,) in await self._insert.fetch(given)}

    async def insert_apart(self, new: Sequence[NewSession]) -> set[bytes]:
        """Store like ``insert``, but wait where another transaction is about to store the same."""
        return await self._database.write(partial(self._sessions.insert, new=new))

    async def end(self, ends: Sequence[End]) -> Ended:
        """End the live sessions that these uses are entitled to; of several uses, the first ends the session."""
        if self._end is None:
            return await self._database.write(partial(self._sessions.end, ends=ends))
        wishes = [(*row_of(use), reason, actor, place) for place, (use, reason, actor) in enumerate(ends)]
        rows = await self._end.fetch(GIVEN_WISHES.parameters(self._dialect, wishes))
        found = {session.digest: session for session in map(session_of, rows)}
        ended = {row[8]: found[bytes(row[0])] for row in rows if row[8] is not None}
        return Ended([ended.get(place) for place in range(len(ends))], found)

    async def is_free(self, digest: bytes) -> bool:
        """Tell whether there is a row of this digest, expired or not, that no other transaction has locked."""
        return await self._database.write(partial(self._sessions.is_free, digest=digest), repeatable=True)

    async def find(self, digests: Collection[bytes]) -> dict[bytes, FoundSession]:
        """Read the rows of these digests, expired ones included; records no activity."""
        given = GIVEN_DIGESTS.parameters(self._dialect, [(digest,) for digest in digests])
        found = {}
        for row in await self._find.fetch(given):
            session = session_of(row)
            found[session.digest] = FoundSession(session, bool(row[8]), bool(row[9]))
        return found

    async def touch(self, uses: Iterable[Use]) -> dict[bytes, Session]:
        """Record activity of the live sessions that these uses are entitled to, and return them."""
        given = GIVEN_USES.parameters(self._dialect, rows_of(uses))
        rows = await self._touch.fetch(given)
        return {session.digest: session for session in map(session_of, rows)}

    async def find_handshakes(self, digests: Collection[bytes]) -> dict[bytes, Handshake]:
        """Return the recorded handshakes of these sessions; one that has none is missing."""
        given = GIVEN_DIGESTS.parameters(self._dialect, [(digest,) for digest in digests])
        rows = await self._find_handshakes.fetch(given)
        return {bytes(digest): Handshake(version, initialize) for digest, version, initialize in rows}
