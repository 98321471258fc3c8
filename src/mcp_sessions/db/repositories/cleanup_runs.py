"""The cleanup runs repository: one row a run, and the slot that makes a run the only cleaner of its deployment."""

from datetime import timedelta

from sqlalchemy import Connection

from mcp_sessions.db.statements import cleanup_runs as statements


class CleanupRunRepository:
    """Rows of ``cleanup_runs``, under one length of lease."""

    def __init__(self, lease: timedelta) -> None:
        self._lease = {"lease": lease}

    def begin(self, connection: Connection, *, run_id: str, worker: str, quiet_time: timedelta) -> bool:
        """Begin a run and take the slot; False where another run holds it or a good one began within quiet time."""
        connection.execute(statements.abandon_lost_runs(), self._lease)
        parameters = {"run_id": run_id, "worker": worker, "quiet_time": quiet_time}
        begun = connection.execute(statements.begin_run(connection.dialect.name), parameters | self._lease)
        return begun.first() is not None

    def advance(self, connection: Connection, run_id: str, *, removed: int = 0, events_removed: int = 0) -> bool:
        """Record a batch and extend the lease; False where the run has lost its slot."""
        parameters = {"this_run_id": run_id, "removed": removed, "removed_events": events_removed}
        return connection.execute(statements.advance_run(), parameters | self._lease).first() is not None

    def end(self, connection: Connection, run_id: str, *, error: str | None) -> None:
        """End a run and free the slot; a run that has lost its slot was ended by another."""
        connection.execute(statements.end_run(), {"this_run_id": run_id, "failure": error})

    def remove(self, connection: Connection, *, older_than: timedelta, limit: int) -> int:
        """Remove at most ``limit`` ended runs that began longer ago than this, and return how many."""
        return connection.execute(statements.remove_runs(), {"retention": older_than, "limit": limit}).rowcount
