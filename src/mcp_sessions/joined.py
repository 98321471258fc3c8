"""The hot calls, joined: what many callers ask of sessions at the same moment shares statements.

Each kind of call has a ``Batcher``; this module says what one batch does to the database and which answer belongs to
whom. Equal uses in one batch are one use; of two ends of one session, the first is the one that ended it.

A use reads first and writes only where a touch is due, so most uses wait for no commit. Where every use is recorded
(a touch interval of zero), it writes at once.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from mcp_sessions.batching import Batcher
from mcp_sessions.db.database import Database
from mcp_sessions.db.repositories import End, FoundSession, HotSessionRepository, Use
from mcp_sessions.errors import DatabaseRefusedError, SessionExistsError
from mcp_sessions.logs import log_expired_on_use
from mcp_sessions.model import TRUSTED, Actor, Handshake, NewSession, Owner, Session, Trusted
from mcp_sessions.refused import RefusedUses
from mcp_sessions.settings import Settings


class JoinedCalls:
    """Creates, uses and ends sessions, one call at a time for the caller, many at a time for the database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._hot = HotSessionRepository(database, settings.timeouts)
        self._refused = RefusedUses(database)
        self._records_every_use = not settings.timeouts.touch_interval
        # asyncpg answers a cancelled call with a connection of its own, to cancel the statement; a thread just goes on.
        lone_reads = database.dialect == "sqlite"
        alike: dict[str, Any] = {
            "max_batch": settings.max_batch,
            "max_queued": settings.max_queued,
            "divisible": DatabaseRefusedError,
        }
        self._creates = Batcher(self._create_all, name="create_session", **alike)
        self._finds = Batcher(self._find_all, name="find_session", cancellable=lone_reads, **alike)
        self._touches = Batcher(self._touch_all, name="touch_session", **alike)
        self._ends = Batcher(self._end_all, name="terminate_session", **alike)
        self._handshakes = Batcher(self._find_all_handshakes, name="get_handshake", cancellable=lone_reads, **alike)

    async def create(self, new: NewSession) -> None:
        """Store a new session; raises ``SessionExistsError`` where its digest is taken."""
        await self._creates.submit(new)

    async def find(self, digest: bytes) -> Session | None:
        """Return the live session with this digest, whoever owns it; records no activity."""
        found = await self._finds.submit(digest)
        return found.session if found is not None and found.live else None

    async def use(self, digest: bytes, owner: Owner | Trusted) -> Session | None:
        """Return the live session that this owner may use, its activity recorded."""
        use = Use(digest, owner)
        if self._records_every_use:
            touched = await self._touches.submit(use)
            if touched is None:
                self._judge(use, await self._finds.submit(digest))
            return touched
        found = self._judge(use, await self._finds.submit(digest))
        if found is None or not found.due:
            return None if found is None else found.session
        # It may have ended since it was read: what the touch finds is the answer.
        return await self._touches.submit(use)

    async def end(self, digest: bytes, owner: Owner | Trusted, *, reason: str, actor: Actor) -> Session | None:
        """End the live session that this owner may end, and return it; None where there is none."""
        return await self._ends.submit(End(Use(digest, owner), reason, actor))

    async def handshake(self, digest: bytes) -> Handshake | None:
        """Return the handshake recorded with a session; None where there is none, or no such session."""
        return await self._handshakes.submit(digest)

    async def close(self) -> None:
        """Answer the calls that were made, and take no more."""
        # A use that is under way may need the other one of these two yet.
        second, first = (self._finds, self._touches) if self._records_every_use else (self._touches, self._finds)
        last_to_first: tuple[Batcher[Any, Any], ...] = (self._handshakes, self._ends, second, first, self._creates)
        async with AsyncExitStack() as closing:  # where one is cancelled, the others close all the same
            closing.push_async_callback(self._refused.close)
            for batcher in last_to_first:
                closing.push_async_callback(batcher.close)

    def _judge(self, use: Use, found: FoundSession | None) -> FoundSession | None:
        """Return what was found if it may be used; tell of it where its time was over, or it is another's."""
        if found is None:
            return None
        if not found.live:
            log_expired_on_use(found.session)
            return None
        if not use.admits(found.session):
            self._note_refused(use, found.session)
            return None
        return found

    async def _create_all(self, new: Sequence[NewSession]) -> Sequence[SessionExistsError | None]:
        first_of_each = list({each.digest: each for each in reversed(new)}.values())
        stored = await self._hot.insert(first_of_each)
        winners = {id(each) for each in first_of_each if each.digest in stored}
        return [None if id(each) in winners else SessionExistsError() for each in new]

    async def _find_all(self, digests: Sequence[bytes]) -> Sequence[FoundSession | None]:
        found = await self._hot.find(set(digests))
        return [found.get(digest) for digest in digests]

    async def _touch_all(self, uses: Sequence[Use]) -> Sequence[Session | None]:
        touched = await self._hot.touch(uses)
        sessions = [touched.get(use.digest) for use in uses]
        return [
            session if session is not None and use.admits(session) else None
            for use, session in zip(uses, sessions, strict=True)
        ]

    async def _end_all(self, ends: Sequence[End]) -> Sequence[Session | None]:
        ended = await self._hot.end(ends)
        for end in ends:
            self._note_refused(end.use, ended.found.get(end.use.digest))
        return ended.sessions

    def _note_refused(self, use: Use, session: Session | None) -> None:
        if session is not None and use.owner is not TRUSTED and not use.admits(session):
            self._refused.note(session, use.owner)

    async def _find_all_handshakes(self, digests: Sequence[bytes]) -> Sequence[Handshake | None]:
        found = await self._hot.find_handshakes(set(digests))
        return [found.get(digest) for digest in digests]
