"""Many sessions end at once, all of a tenant's or simply all, in batches that leave room for other work.

Rows that another transaction has locked are waited for. If that is in vain, everything that nobody holds ends first,
and what is held is waited for once more: a forgotten open transaction keeps no other session of a tenant alive.
"""

from datetime import datetime
from functools import partial
from typing import Any

from mcp_sessions.cleanup.batch_size import Pace
from mcp_sessions.cleanup.run import Progress
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import BulkEnd, SessionRepository
from mcp_sessions.errors import DatabaseHeldError
from mcp_sessions.records.sessions import Session
from mcp_sessions.settings import Settings


class BulkEnds:
    """Ends many sessions of one database at a time."""

    def __init__(self, database: Backend, sessions: SessionRepository, settings: Settings) -> None:
        self._database = database
        self._sessions = sessions
        self._batch_size = settings.cleanup_batch_size
        self._lock_patience = settings.statement_timeout / 2  # there are two waits

    async def run(self, bulk: BulkEnd, progress: Progress | None = None) -> int:
        """End all sessions that are meant and were created before now, and return how many.

        Raises:
            DatabaseHeldError: of some, another transaction has held the rows; those that were free have ended.
            DatabaseError: the database failed; what has ended until then stays ended.
        """
        newest = await self._database.read(self._sessions.newest_creation)
        return 0 if newest is None else await self._in_batches(bulk, newest, progress)

    async def _in_batches(self, bulk: BulkEnd, newest: datetime, progress: Progress | None) -> int:
        count, pace, any_left = 0, Pace(self._batch_size), True
        if_free, in_vain = False, 0  # whether held rows are left, and how often they were waited for in vain
        while any_left:
            batch = partial(self._end_some, bulk=bulk, newest=newest, pace=pace, if_free=if_free)
            try:
                ended, any_left = await self._database.write(batch, lock_patience=self._lock_patience)
            except DatabaseHeldError:
                if_free, in_vain = True, in_vain + 1
                continue
            pace.end()
            count += len(ended)
            self._database.instruments.sessions_ended(bulk.kind, len(ended))
            if progress is not None:
                progress(count)
            if any_left:
                await self._database.give_way()
            if any_left and if_free and not ended:
                if in_vain > 1:
                    raise DatabaseHeldError(
                        f"{count} sessions have ended, and others have not: another transaction holds their rows; "
                        "try again once they are free"
                    )
                if_free = False
        return count

    def _end_some(
        self, connection: Any, bulk: BulkEnd, newest: datetime, pace: Pace, *, if_free: bool
    ) -> tuple[list[Session], bool]:
        pace.begin()
        return self._sessions.end_some(connection, bulk, newest=newest, limit=pace.size, if_free=if_free)
