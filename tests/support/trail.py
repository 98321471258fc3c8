"""The audit trail as an auditor reads it: rows of ``session_events``, and what must always hold among them."""

from datetime import datetime
from typing import Any

from mcp_sessions.digests import digest_of
from mcp_sessions.records.sessions import Owner
from tests.support.managers import eventually_in_sql
from tests.support.rows import Row, Rows


class Trail:
    """The events in a test's database, in the order in which they were written."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def events(self, session_id: str | None = None, *, kind: str | None = None) -> list[Row]:
        """Return all events, or those of one session, or of one kind."""
        events = await self._rows.fetch("SELECT * FROM session_events ORDER BY event_id")
        digest = None if session_id is None else digest_of(session_id)
        return [
            event
            for event in events
            if digest in (None, bytes(event["session_digest"])) and kind in (None, event["kind"])
        ]

    async def kinds(self, session_id: str | None = None) -> list[str]:
        """Return the kinds of all events, or of those of one session."""
        return [event["kind"] for event in await self.events(session_id)]

    async def has_refused(self, count: int) -> None:
        """Wait until this many refused uses are recorded: that is done in the background."""

        async def are_there() -> bool:
            return len(await self.events(kind="refused")) >= count

        await eventually_in_sql(are_there, f"{count} refused uses in the trail")

    async def agrees_with_the_table(self) -> None:
        """Assert that each life began once, ended once at most, and has a row exactly as long as it has not ended."""
        begun = await self._lives("session_events WHERE kind = 'created'", "session_created_at")
        ended = await self._lives("session_events WHERE kind NOT IN ('created', 'refused')", "session_created_at")
        stored = await self._lives("sessions", "created_at")
        for lives in (begun, ended, stored):
            assert len(lives) == len(set(lives))
        assert set(ended) <= set(begun)
        assert set(begun) - set(ended) == set(stored)

    async def _lives(self, source: str, created_at: str) -> list[tuple[bytes, Any]]:
        rows = await self._rows.fetch(f"SELECT session_digest, {created_at} AS created_at FROM {source}")
        return [(bytes(row["session_digest"]), row["created_at"]) for row in rows]


def owner_in(event: Row, prefix: str = "") -> Owner:
    """Return the owner that an event names: the session's, or the one ``claimed_``."""
    return Owner(*(event[f"{prefix}{name}"] for name in ("tenant_id", "client_id", "issuer", "subject")))


def moment(value: datetime | str) -> datetime:
    """Return a time of either engine as an aware one."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(f"{value}+00:00")
