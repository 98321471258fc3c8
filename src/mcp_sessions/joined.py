"""The hot calls, joined: what many callers ask of sessions at the same moment shares statements.

Each kind of call has a ``Batcher``; this module says what one batch does to the database and which answer belongs to
whom. Equal uses in one batch are one use; of two ends of one session, the first is the one that ended it.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from mcp_sessions.batching import Batcher
from mcp_sessions.db.engine import Database
from mcp_sessions.db.repositories import FoundSession, SessionRepository, Use
from mcp_sessions.errors import SessionExistsError
from mcp_sessions.logs import log_expired_on_use
from mcp_sessions.model import NewSession, Owner, Session
from mcp_sessions.settings import Settings


class _End(NamedTuple):
    use: Use
    reason: str


class JoinedCalls:
    """Creates, uses and ends sessions, one call at a time for the caller, many at a time for the database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._sessions = SessionRepository(settings.timeouts)
        self._records_every_use = not settings.timeouts.touch_interval
        bounds = {"max_batch": settings.max_batch, "max_queued": settings.max_queued}
        self._creates = Batcher(self._create_all, name="create_session", **bounds)
        self._uses = Batcher(self._use_all, name="resume_session", **bounds)
        self._ends = Batcher(self._end_all, name="terminate_session", **bounds)

    async def create(self, new: NewSession) -> None:
        """Store a new session; raises ``SessionExistsError`` where its digest is taken."""
        await self._creates.submit(new)

    async def use(self, digest: bytes, owner: Owner | None) -> Session | None:
        """Return the live session that this owner may use, its activity recorded; ``owner`` None: trusted code."""
        return await self._uses.submit(Use(digest, owner))

    async def end(self, digest: bytes, owner: Owner | None, reason: str) -> Session | None:
        """End the live session that this owner may end, and return it; None where there is none."""
        return await self._ends.submit(_End(Use(digest, owner), reason))

    async def close(self) -> None:
        """Answer the calls that were made, and take no more."""
        for batcher in (self._creates, self._uses, self._ends):
            await batcher.close()

    async def _create_all(self, new: Sequence[NewSession]) -> Sequence[SessionExistsError | None]:
        first_of_each = list({each.digest: each for each in reversed(new)}.values())
        stored = await self._database.write(partial(self._sessions.insert, new=first_of_each))
        winners = {id(each) for each in first_of_each if each.digest in stored}
        return [None if id(each) in winners else SessionExistsError() for each in new]

    async def _use_all(self, uses: Sequence[Use]) -> Sequence[Session | None]:
        touched: dict[bytes, Session] = {}
        if self._records_every_use:
            touched = await self._touch(uses)
            found = await self._find([use for use in uses if use.digest not in touched])
        else:
            found = await self._find(uses)
            if due := [use for use in uses if _may_use(found.get(use.digest), use) and found[use.digest].due]:
                touched = await self._touch(due)
        for each in found.values():
            if not each.live:
                log_expired_on_use(each.session)
        return [_answer(use, touched.get(use.digest), found.get(use.digest)) for use in uses]

    async def _end_all(self, ends: Sequence[_End]) -> Sequence[Session | None]:
        ended = await self._database.write(partial(self._sessions.end, uses=[end.use for end in ends]))
        return [
            ended.pop(use.digest) if use.digest in ended and use.admits(ended[use.digest]) else None
            for use, _reason in ends
        ]

    async def _find(self, uses: Sequence[Use]) -> dict[bytes, FoundSession]:
        digests = {use.digest for use in uses}
        return await self._sessions.find_hot(self._database, digests) if digests else {}

    async def _touch(self, uses: Sequence[Use]) -> dict[bytes, Session]:
        touch = partial(self._sessions.touch, uses=uses)
        return await self._database.write(touch, repeatable=True, single_statement=True)


def _may_use(found: FoundSession | None, use: Use) -> bool:
    return found is not None and found.live and use.admits(found.session)


def _answer(use: Use, touched: Session | None, found: FoundSession | None) -> Session | None:
    if touched is not None:
        return touched if use.admits(touched) else None
    # A session whose touch was due and found no row ended in between: what was read before is no answer.
    return found.session if found is not None and _may_use(found, use) and not found.due else None
