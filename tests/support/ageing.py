"""Make a session older by moving its row's times, by the database's own arithmetic; no clock is faked."""

from datetime import timedelta

from sqlalchemy import Connection, text

from mcp_sessions import SessionManager
from mcp_sessions.digests import digest_of

_MOVED = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', {0}, :seconds || ' seconds')",
    "postgresql": "{0} + CAST(:seconds AS double precision) * interval '1 second'",
}
_TIMES = ("created_at", "last_activity_at", "expires_at", "cleanup_at")


async def age(database_url: str, session_id: str, by: timedelta) -> None:
    """Make a session older, as if that time had passed without activity."""
    digest = digest_of(session_id)

    def move(connection: Connection) -> None:
        moved = _MOVED[connection.dialect.name]
        changes = ", ".join(f"{column} = {moved.format(column)}" for column in _TIMES)
        seconds = str(-by.total_seconds()) if connection.dialect.name == "sqlite" else -by.total_seconds()
        connection.execute(
            text(f"UPDATE sessions SET {changes} WHERE session_digest = :digest"),  # names of our own
            {"seconds": seconds, "digest": digest},
        )

    async with SessionManager.open(database_url, scheduled_cleanup=False) as manager:
        await manager.database.write(move)
