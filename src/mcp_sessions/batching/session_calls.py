"""The hot calls, joined: what many callers ask of sessions at the same moment shares statements.

Each kind of call has a ``Batcher``; this module says what one batch does to the database and which answer belongs to
whom. Equal uses in one batch are one use; of two ends of one session, the first is the one that ended it.

A use reads first and writes only where a touch is due, so most uses wait for no commit. Where every use is recorded
(a touch interval of zero), it writes at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any

from mcp_sessions.audit.refusals import RefusedUses
from mcp_sessions.batching.batcher import Batcher, Item
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import End, FoundSession, Use, hot_sessions
from mcp_sessions.db.repositories.openings import Opening, OpeningRepository
from mcp_sessions.errors import DatabaseHeldError, DatabaseRefusedError, SessionExistsError
from mcp_sessions.logs import log_expired_on_use
from mcp_sessions.records.events import Actor
from mcp_sessions.records.sessions import TRUSTED, Handshake, NewSession, Owner, Session, StoredHandshake, Trusted
from mcp_sessions.sealing import Sealer
from mcp_sessions.settings import Settings

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.002, 0.05
"""Between two looks at a row that another transaction holds; most hold it for as long as a commit takes."""

_LOCK_PATIENCE_AMONG_MANY = 0.2
"""Seconds that a question about many sessions waits for those whose rows are held."""


class JoinedCalls:
    """Creates, uses and ends sessions, one call at a time for the caller, many at a time for the database."""

    def __init__(self, database: Backend, settings: Settings, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._hot = hot_sessions(database, settings.timeouts)
        self._refused = RefusedUses(database)
        # However many are asked for at once, there is room for other callers.
        self._group_size = max(1, min(settings.max_batch, settings.max_queued // 2))
        self._lock_patience = settings.statement_timeout.total_seconds()
        self._records_every_use = not settings.timeouts.touch_interval
        lone_reads = database.reads_are_cancellable
        alike: dict[str, Any] = {
            "max_batch": settings.max_batch,
            "max_queued": settings.max_queued,
            "divisible": (DatabaseRefusedError, DatabaseHeldError),
            "instruments": database.instruments,
        }
        self._creates = Batcher(self._create_all, name="create_session", **alike)
        self._creates_apart = Batcher(self._create_apart, name="create_session", **(alike | {"max_batch": 1}))
        self._openings = OpeningRepository(settings.timeouts)
        self._opens = Batcher(self._open_all, name="create_session for a reason", **alike)
        self._finds = Batcher(self._find_all, name="find_session", cancellable=lone_reads, **alike)
        self._touches = Batcher(self._touch_all, name="touch_session", **alike)
        self._ends = Batcher(self._end_all, name="terminate_session", **alike)
        self._handshakes = Batcher(self._find_all_handshakes, name="get_handshake", cancellable=lone_reads, **alike)

    async def create(self, digest: bytes, owner: Owner, handshake: Handshake | None) -> None:
        """Store a new session; raises ``SessionExistsError`` where its digest is taken."""
        stored = None
        if handshake is not None:
            initialize, key_id = self._sealer.seal(handshake.initialize, *_place_of(digest))
            stored = StoredHandshake(handshake.protocol_version, initialize, key_id)
        new, deadline = NewSession(digest, owner, stored), self._database.deadline()
        try:
            await self._creates.submit(new, deadline=deadline)
        except DatabaseHeldError:  # another transaction is about to store the same: whoever waits for it does so alone
            await self._creates_apart.submit(new, deadline=deadline)

    async def open(self, opening: Opening) -> None:
        """Store a new session that is created for a reason; raises ``SessionExistsError`` where its digest is taken."""
        try:
            is_opened = await self._opens.submit(opening, deadline=self._database.deadline())
        except DatabaseHeldError:  # as in ``create``
            (is_opened,) = await self._open_all([opening], lock_patience=None)
        if not is_opened:
            raise SessionExistsError

    async def find(self, digest: bytes) -> Session | None:
        """Return the live session with this digest, whoever owns it; records no activity."""
        found = await self._finds.submit(digest, deadline=self._database.deadline())
        return found.session if found is not None and found.live else None

    async def use(self, digest: bytes, owner: Owner | Trusted, *, lock_patience: float | None = None) -> Session | None:
        """Return the live session that this owner may use, its activity recorded.

        ``lock_patience``, in seconds, is how long it waits at most while another transaction holds the session's row.
        """
        deadline = self._database.deadline()
        use = Use(digest, owner)
        if not self._records_every_use:
            found = self._judge(use, await self._finds.submit(digest, deadline=deadline))
            if found is None or not found.due:
                return None if found is None else found.session
        # It may have ended since it was read: what the touch finds is the answer.
        touched = await self._touches.submit(use, deadline=deadline)
        return touched or await self._once_free(use, self._touches, use, deadline, lock_patience)

    async def end(self, digest: bytes, owner: Owner | Trusted, *, reason: str, actor: Actor) -> Session | None:
        """End the live session that this owner may end, and return it; None where there is none."""
        deadline = self._database.deadline()
        end = End(Use(digest, owner), reason, actor)
        ended = await self._ends.submit(end, deadline=deadline)
        return ended or await self._once_free(end.use, self._ends, end, deadline)

    async def handshake(self, digest: bytes) -> Handshake | None:
        """Return the handshake recorded with a session; None where there is none, or no such session."""
        stored = await self._handshakes.submit(digest, deadline=self._database.deadline())
        if stored is None:
            return None
        initialize = self._sealer.open(stored.initialize, stored.key_id, *_place_of(digest))
        return Handshake(stored.protocol_version, initialize)

    async def find_all(self, digests: Sequence[bytes]) -> frozenset[bytes]:
        """Return those of these digests whose sessions are live, like so many ``find``; records no activity."""
        return await self._in_groups(digests, self.find)

    async def use_all(self, digests: Sequence[bytes]) -> frozenset[bytes]:
        """Record activity of these sessions, like so many ``use`` by trusted code; return the digests of the live.

        Of a session whose row another transaction keeps locked, no activity is recorded: the others do not wait for it.
        """
        return await self._in_groups(digests, self._use_if_free)

    async def close(self) -> None:
        """Answer the calls that were made, and take no more."""
        # A use that is under way may need the other one of these two yet.
        second, first = (self._finds, self._touches) if self._records_every_use else (self._touches, self._finds)
        last_to_first: tuple[Batcher[Any, Any], ...] = (
            self._handshakes,
            second,
            first,
            self._ends,
            self._opens,
            self._creates_apart,
            self._creates,
        )
        async with AsyncExitStack() as closing:  # where one is cancelled, the others close all the same
            closing.push_async_callback(self._refused.close)
            for batcher in last_to_first:
                closing.push_async_callback(batcher.close)

    async def _in_groups(
        self, digests: Sequence[bytes], call: Callable[[bytes], Awaitable[Session | None]]
    ) -> frozenset[bytes]:
        live: set[bytes] = set()
        for first in range(0, len(digests), self._group_size):
            group = digests[first : first + self._group_size]
            sessions = await asyncio.gather(*map(call, group))
            live.update(session.digest for session in sessions if session is not None)
        return frozenset(live)

    async def _use_if_free(self, digest: bytes) -> Session | None:
        try:
            return await self.use(digest, TRUSTED, lock_patience=_LOCK_PATIENCE_AMONG_MANY)
        except DatabaseHeldError:
            return await self.find(digest)

    async def _once_free(
        self,
        use: Use,
        calls: Batcher[Item, Session | None],
        item: Item,
        deadline: float,
        lock_patience: float | None = None,
    ) -> Session | None:
        """Return what a call brings that brought nothing yet, perhaps because another transaction holds the row.

        A read, which waits for nobody, tells: while it finds the session, for this use, the row is held. Where its
        time is over meanwhile, whoever holds it may have kept it alive: until the row is free, nobody knows.
        """
        clock = asyncio.get_running_loop().time
        pause, give_up = _FIRST_PAUSE_SECONDS, min(deadline, clock() + (lock_patience or self._lock_patience))
        found = await self._finds.submit(use.digest, deadline=deadline)
        is_settled = found is None or not found.live
        while found is not None and use.admits(found.session) and not is_settled:
            if clock() >= give_up:
                raise DatabaseHeldError("another transaction holds the session's row, for longer than a call can wait")
            await asyncio.sleep(min(pause, give_up - clock()))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            is_free = not found.live and await self._hot.is_free(use.digest)
            if (session := await calls.submit(item, deadline=deadline)) is not None:
                return session
            found = await self._finds.submit(use.digest, deadline=deadline)
            is_settled = is_free and found is not None and not found.live
        self._judge(use, found)
        return None

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

    async def _open_all(
        self, openings: Sequence[Opening], lock_patience: timedelta | None = timedelta(0)
    ) -> Sequence[bool]:
        return await self._database.write(partial(self._openings.open, openings=openings), lock_patience=lock_patience)

    async def _create_apart(self, new: Sequence[NewSession]) -> Sequence[SessionExistsError | None]:
        stored = await self._hot.insert_apart(new)
        return [None if each.digest in stored else SessionExistsError() for each in new]

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

    async def _find_all_handshakes(self, digests: Sequence[bytes]) -> Sequence[StoredHandshake | None]:
        found = await self._hot.find_handshakes(set(digests))
        return [found.get(digest) for digest in digests]


def _place_of(digest: bytes) -> tuple[str, bytes]:
    """Where a handshake is stored, as far as its seal is concerned."""
    return "session_handshakes", digest
