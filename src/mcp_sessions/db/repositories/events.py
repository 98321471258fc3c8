"""The audit trail's repository: events are written, read and, once they are old enough, removed; never changed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.expressions import GIVEN_ENDS, GIVEN_REFUSALS
from mcp_sessions.db.statements import events as statements
from mcp_sessions.db.types import utc
from mcp_sessions.records.events import Actor, EventFilter, EventKind, SessionEvent
from mcp_sessions.records.sessions import Owner, Session, parts_of


class RecordedEnd(NamedTuple):
    """The end of one session, as it is recorded: why, and by whom."""

    digest: bytes
    reason: str
    actor: Actor


class Refusal(NamedTuple):
    """A use that was refused, because the session belongs to another owner than the claimed one."""

    session: Session
    claimed: Owner


class EventRepository:
    """Rows of ``session_events``."""

    def record_ends(self, connection: Connection, kind: EventKind, ends: Sequence[RecordedEnd]) -> None:
        """Record the ends of sessions whose rows are still there, and locked by this transaction."""
        dialect = connection.dialect.name
        given = GIVEN_ENDS.parameters(dialect, ends)
        connection.execute(statements.record_ends(dialect), given | {"kind": kind})

    def record_refusals(self, connection: Connection, refusals: Sequence[Refusal], *, quiet_time: timedelta) -> int:
        """Record refused uses and return how many were not left out: equal ones are within the quiet time."""
        dialect = connection.dialect.name
        rows = [
            (session.digest, *parts_of(session.owner), session.created_at, *parts_of(claimed))
            for session, claimed in refusals
        ]
        given = GIVEN_REFUSALS.parameters(dialect, rows)
        recorded = connection.execute(statements.record_refusals(dialect), given | {"quiet_time": quiet_time})
        return len(recorded.all())

    def remove(self, connection: Connection, *, older_than: timedelta, limit: int) -> int:
        """Remove at most ``limit`` events that are older than this, the oldest first, and return how many."""
        return connection.execute(statements.remove_events(), {"retention": older_than, "limit": limit}).rowcount

    def page(
        self, connection: Connection, wanted: EventFilter, *, limit: int, after: tuple[datetime, int] | None
    ) -> list[SessionEvent]:
        """Return at most ``limit`` events, newest first, behind the event named by ``after``."""
        parameters: dict[str, Any] = {"limit": limit}
        if after is not None:
            parameters["cursor_occurred_at"], parameters["cursor_event_id"] = after
        statement = statements.page_of_events(wanted, continued=after is not None)
        return [_event_of(row) for row in connection.execute(statement, parameters)]

    def behind(self, connection: Connection, event_id: int, wanted: EventFilter, *, limit: int) -> list[SessionEvent]:
        """Return at most ``limit`` events whose number is above this one, in the order of their numbers."""
        rows = connection.execute(statements.events_behind(wanted), {"event_id": event_id, "limit": limit})
        return [_event_of(row) for row in rows]

    def last_before(self, connection: Connection, *, age: timedelta) -> int:
        """Return the number of the newest event older than this; 0 where there is none."""
        return connection.execute(statements.last_event_before(), {"age": age}).scalar() or 0

    def newest(self, connection: Connection) -> tuple[int, frozenset[str]]:
        """Return the number of the newest event, and who may be about to commit one with a lower number.

        SQLite has one writer at a time: there, nobody.
        """
        number = connection.execute(statements.newest_event()).scalar() or 0
        if connection.dialect.name == "sqlite":
            return number, frozenset()
        return number, frozenset(connection.execute(statements.writers()).scalars())

    def may_remove(self, connection: Connection, *, schema: str | None) -> bool:
        """Tell whether this role may remove events and runs; Postgres can keep that from an application."""
        if connection.dialect.name == "sqlite":
            return True
        place = f'"{schema}".' if schema else ""
        tables = {"events": f"{place}session_events", "runs": f"{place}cleanup_runs"}
        return connection.execute(statements.may_remove(), tables).scalar_one()


def _event_of(row: Sequence[Any]) -> SessionEvent:
    """Map a row of ``statements.EVENT_COLUMNS``: the one place that does."""
    event_id, occurred_at, kind, reason, actor, digest, *rest = row
    owner, (created_at, lifetime), claimed = rest[:4], rest[4:6], rest[6:]
    return SessionEvent(
        event_id,
        utc(occurred_at),
        kind,
        reason,
        actor,
        bytes(digest),
        Owner(*owner),
        utc(created_at),
        lifetime,
        Owner(*claimed) if kind == "refused" else None,
    )
