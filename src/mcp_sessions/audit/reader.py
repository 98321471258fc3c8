"""The audit trail, read: page by page, or followed live.

Following means asking for the events behind the last one known, by their number. A number is given out before its
transaction commits, so an event can appear after one with a higher number. All are there up to the newest one of some
moment as soon as those have ended who were writing at that moment, however long that takes. What lies behind is asked
for again, and what was seen is left out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from mcp_sessions.cursors import cursor_behind, place_of
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import EventRepository
from mcp_sessions.errors import DatabaseUnavailableError
from mcp_sessions.records.events import EventFilter, EventPage, SessionEvent
from mcp_sessions.validation import LARGEST_PAGE, checked_limit

POLL_SECONDS = 0.5
LOOK_BACK = timedelta(minutes=1)
"""How far back from its beginning following minds events that are not committed: longer than our transactions take."""

T = TypeVar("T")

OutageListener = Callable[[DatabaseUnavailableError | None], None]
"""Is told of an outage when it begins, and with ``None`` when it is over."""


class _Settled:
    """The number up to which no event is expected any more."""

    def __init__(self, number: int) -> None:
        self.number = self._next = number
        self._writing: frozenset[str] = frozenset()

    def look(self, newest: int, writing: frozenset[str]) -> None:
        """Take in the number of the newest event, and who was writing after that was read."""
        if not self._writing & writing:
            self.number = max(self.number, self._next)
            self._next, self._writing = newest, writing


class AuditTrail:
    """Reads the events of one database."""

    def __init__(self, database: Backend) -> None:
        self._database = database
        self._events = EventRepository()

    async def page(self, wanted: EventFilter, *, limit: int, cursor: str | None = None) -> EventPage:
        """Return a page of events, newest first."""
        after = None if cursor is None else place_of(cursor, _event_id_of, method="list_events")
        unit = partial(self._events.page, wanted=wanted, limit=checked_limit(limit) + 1, after=after)
        events = await self._database.report(unit)
        shown = tuple(events[:limit])
        if len(events) <= limit:
            return EventPage(shown, None)
        return EventPage(shown, cursor_behind(shown[-1].occurred_at, str(shown[-1].event_id).encode()))

    async def follow(
        self, wanted: EventFilter, *, last: int, outage: OutageListener | None = None
    ) -> AsyncIterator[list[SessionEvent]]:
        """Yield the last events there are, then new ones as they come, each once.

        With a listener, an outage of the database is told to it and waited through; without one it is an error.
        """
        settled = _Settled(await self._database.report(partial(self._events.last_before, age=LOOK_BACK)))
        seen = {each.event_id for each in await self._behind(settled.number, wanted)}
        if last:
            page = await self.page(wanted, limit=last)
            seen |= {each.event_id for each in page}
            yield [*reversed(page.events)]
        while True:
            events = await _through_outages(partial(self._poll, settled, wanted), outage)
            if new := [each for each in events if each.event_id not in seen]:
                yield new
            seen = {event_id for event_id in seen.union(each.event_id for each in new) if event_id > settled.number}
            await asyncio.sleep(POLL_SECONDS)

    async def _poll(self, settled: _Settled, wanted: EventFilter) -> list[SessionEvent]:
        newest, writing = await self._database.report(self._events.newest)
        events = await self._behind(settled.number, wanted)  # then: what others have committed meanwhile is among them
        settled.look(newest, writing)
        return events

    async def _behind(self, event_id: int, wanted: EventFilter) -> list[SessionEvent]:
        events: list[SessionEvent] = []
        while True:
            unit = partial(self._events.behind, event_id=event_id, wanted=wanted, limit=LARGEST_PAGE)
            events += (page := await self._database.report(unit))
            if len(page) < LARGEST_PAGE:
                return events
            event_id = page[-1].event_id


async def _through_outages(poll: Callable[[], Awaitable[T]], outage: OutageListener | None) -> T:
    """Return what a poll brings; an outage is told once when it begins and once when it is over."""
    out = False
    while True:
        try:
            found = await poll()
        except DatabaseUnavailableError as fault:
            if outage is None:
                raise
            if not out:
                outage(fault)
            out = True
            await asyncio.sleep(POLL_SECONDS)
        else:
            if out and outage is not None:
                outage(None)
            return found


def _event_id_of(key: bytes) -> int:
    if not 0 < (event_id := int(key)) < 2**63:
        raise ValueError("not the number of an event")
    return event_id
