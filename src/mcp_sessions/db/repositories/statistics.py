"""The statistics repository: the numbers that an operator looks at first."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.statements import statistics as statements
from mcp_sessions.db.types import utc
from mcp_sessions.records.events import END_KINDS, EventKind
from mcp_sessions.records.statistics import Activity, CleanupRun, HourOfSessions, Statistics

MOST_TENANTS = 5


class _Count(NamedTuple):
    """Events of one kind in one hour: how many, and how long the sessions lived that they ended, together."""

    hours_ago: int
    kind: EventKind
    number: int
    lifetime: float


class StatisticsRepository:
    """Numbers from ``sessions``, ``session_events`` and ``cleanup_runs``."""

    def read(self, connection: Connection) -> Statistics:
        """Return all the numbers."""
        now, live, stored = connection.execute(statements.count_sessions()).one()
        counts = [
            # An event of this very moment, or of one that a clock put back has yet to reach, is of the last hour.
            _Count(min(max(hours_ago, 0), statements.HOURS - 1), kind, number, lifetime or 0.0)
            for hours_ago, kind, number, lifetime in connection.execute(statements.events_by_hour())
        ]
        tenants = connection.execute(statements.biggest_tenants(), {"limit": MOST_TENANTS})
        run = connection.execute(statements.last_run()).first()
        return Statistics(
            at=utc(now),
            live=live,
            expired=stored - live,
            last_hour=_activity(each for each in counts if each.hours_ago == 0),
            last_day=_activity(counts),
            hours=_hours(counts, utc(now), stored),
            tenants=tuple((tenant_id, number) for tenant_id, number in tenants),
            last_cleanup=None if run is None else CleanupRun(*run),
            live_by_handle=connection.execute(statements.count_by_handle()).scalar_one(),
        )


def _activity(counts: Iterable[_Count]) -> Activity:
    number: Counter[EventKind] = Counter()
    lifetime = 0.0
    for each in counts:
        number[each.kind] += each.number
        lifetime += each.lifetime
    ended = {kind: number[kind] for kind in END_KINDS}
    total = sum(ended.values())
    return Activity(number["created"], ended, number["refused"], lifetime / total if total else None)


def _hours(counts: Iterable[_Count], now: datetime, stored: int) -> tuple[HourOfSessions, ...]:
    """Count back from the rows there are now: forward, it would need events that the retention removed."""
    opened: Counter[int] = Counter()
    ended: Counter[int] = Counter()
    for each in counts:
        if each.kind == "created":
            opened[each.hours_ago] += each.number
        elif each.kind in END_KINDS:
            ended[each.hours_ago] += each.number
    hours = []
    for ago in range(statements.HOURS):
        hours.append(HourOfSessions(now - timedelta(hours=ago), opened[ago], ended[ago], stored))
        stored -= opened[ago] - ended[ago]
    return tuple(reversed(hours))
