"""The hot sessions repository: the two statements of every request and the one of every restore, each on a lane."""

from collections.abc import Collection, Iterable

from mcp_sessions.db.database import Database
from mcp_sessions.db.expressions import GIVEN_DIGESTS, GIVEN_USES
from mcp_sessions.db.repositories.sessions import FoundSession, Use, rows_of, session_of
from mcp_sessions.db.statements import handshakes
from mcp_sessions.db.statements import sessions as statements
from mcp_sessions.model import Handshake, Session, Timeouts


class HotSessionRepository:
    """Reads and touches rows of ``sessions``; each method for one caller at a time."""

    def __init__(self, database: Database, timeouts: Timeouts) -> None:
        dialect = self._dialect = database.dialect
        quiet = {"minus_touch_interval": -timeouts.touch_interval}
        window = statements.expiry_window(timeouts)
        bounded = timeouts.absolute is not None
        self._find = database.lane(statements.find_sessions(dialect), quiet)
        self._touch = database.lane(statements.touch(dialect, bounded=bounded), window, writes=True)
        self._find_handshakes = database.lane(handshakes.find_handshakes(dialect), {})

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
