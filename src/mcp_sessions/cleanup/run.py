"""The scheduled DELETE: expired sessions leave the table in bounded batches, oldest first, by one worker at a time.

A run takes the only slot that there is in ``cleanup_runs`` and keeps it by moving its lease on with every batch, in
the same transaction as the batch. A worker that dies in the middle loses the slot when its lease runs out. Expiry is
asked again of each row once it is locked, so a session that was touched in between stays. Correctness never waits for
the cleanup: an expired session is not valid, swept or not. Batches are sized by time (see ``batch_size``).

When the sessions are done, the same run removes what is older than the audit trail is kept, events and runs, in the
same bounded batches. On Postgres that takes a right of its own, which an application need not have.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from mcp_sessions.cleanup.batch_size import Pace
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import (
    BEGINNING_OF_TIME,
    CleanupRunRepository,
    EventRepository,
    MessageRepository,
    SessionRepository,
    Swept,
    WorkerRepository,
)
from mcp_sessions.db.repositories.key_values import KeyValueRepository
from mcp_sessions.errors import DatabaseError, DatabaseUnavailableError
from mcp_sessions.logs import log
from mcp_sessions.settings import Settings

LEASE = timedelta(seconds=30)
"""How long a run keeps the slot without finishing a batch; a batch is bounded by the statement timeout anyway."""


COUNTED_UP_TO = 100_000
"""How far the logs count rows before and after a run: counting a large table costs more than cleaning it."""


_RETRY_SLOT_SECONDS = 0.2


_STOPPED = "stopped before its end"


Progress = Callable[[int], None]
"""Told, after each batch, how many sessions the run has removed so far."""


class Cleanup:
    """Runs the cleanup once; knows nothing of schedules and managers."""

    def __init__(self, database: Backend, settings: Settings) -> None:
        self._database = database
        self._sessions = SessionRepository(settings.timeouts)
        self._events = EventRepository()
        self._values = KeyValueRepository()
        self._runs = CleanupRunRepository(LEASE)
        self._messages = MessageRepository()
        self._workers = WorkerRepository(settings.worker_lease)
        self._message_retention = settings.message_retention
        self._retention = settings.audit_retention
        self._schema = settings.database_schema
        self._batch_size = settings.cleanup_batch_size
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    async def run(self, progress: Progress | None = None) -> int:
        """Run now, after a run that another worker is in the middle of, and return how many sessions were removed.

        Raises:
            DatabaseError: the database failed, or another run held the slot for longer than a lease; what was
                removed before stays removed.
        """
        try:
            async with asyncio.timeout(2 * LEASE.total_seconds()):
                while not (run_id := await self._begin(timedelta(0))):  # noqa: ASYNC110 - it is in another process
                    await asyncio.sleep(_RETRY_SLOT_SECONDS)
        except TimeoutError:
            raise DatabaseUnavailableError("another cleanup run is still going on; try again later") from None
        return await self._carried_out(run_id, progress or _untold)

    async def run_unless_recent(self, quiet_time: timedelta, stopping: asyncio.Event) -> int | None:
        """Run unless another worker is at it or did so within the quiet time (then: None).

        Once ``stopping`` is set, the run ends after the batch that is in flight.
        """
        run_id = await self._begin(quiet_time)
        return None if run_id is None else await self._carried_out(run_id, _untold, stopping)

    async def _begin(self, quiet_time: timedelta) -> str | None:
        run_id = uuid.uuid4().hex
        begin = partial(self._runs.begin, run_id=run_id, worker=self._worker, quiet_time=quiet_time)
        beginning = asyncio.ensure_future(self._database.write(begin))
        try:
            return run_id if await asyncio.shield(beginning) else None
        except asyncio.CancelledError:
            await asyncio.gather(beginning, return_exceptions=True)
            await self._end(run_id, _STOPPED)  # or a slot that was just taken would be held for a whole lease
            raise

    async def _end(self, run_id: str, error: str | None) -> None:
        with suppress(DatabaseError):  # the run's lease ends by itself; the fault that counts is on its way
            await self._database.write(partial(self._runs.end, run_id=run_id, error=error))

    async def _carried_out(self, run_id: str, progress: Progress, stopping: asyncio.Event | None = None) -> int:
        error: str | None = _STOPPED
        stopping = stopping or asyncio.Event()
        try:
            before = await self._database.report(partial(self._sessions.count_rows, up_to=COUNTED_UP_TO))
            removed = await self._sweep(run_id, progress, stopping)
            await self._remove_expired_values(run_id, stopping)
            events_removed = await self._forget(run_id, stopping)
            messages_removed = await self._drop_messages(stopping)
            error = _STOPPED if stopping.is_set() else None
        except DatabaseError as fault:
            error = str(fault)
            raise
        finally:
            await self._end(run_id, error)
            outcome = "done" if error is None else "stopped" if error == _STOPPED else "failed"
            self._database.instruments.cleanup_ended(outcome)
        after = await self._database.report(partial(self._sessions.count_rows, up_to=COUNTED_UP_TO))
        log(
            logging.INFO,
            "cleanup_run",
            "cleaned up %(removed)s expired sessions, %(events_removed)s old events and %(messages_removed)s old "
            "messages; %(before)s sessions before, %(after)s after",
            removed=removed,
            events_removed=events_removed,
            messages_removed=messages_removed,
            before=before,
            after=after,
        )
        return removed

    async def _sweep(self, run_id: str, progress: Progress, stopping: asyncio.Event) -> int:
        removed, position, pace, any_left = 0, BEGINNING_OF_TIME, Pace(self._batch_size), True
        while any_left and not stopping.is_set():
            batch = partial(self._sweep_batch, run_id=run_id, position=position, pace=pace)
            swept, any_left = await self._database.write(batch)
            pace.end()
            removed, position = removed + swept.removed, swept.next_cleanup_at
            self._database.instruments.sessions_ended("expired", swept.removed)
            self._database.instruments.rows_removed("sessions", swept.removed)
            progress(removed)
            if any_left:
                await self._database.give_way()
        return removed

    def _sweep_batch(self, connection: Any, *, run_id: str, position: datetime, pace: Pace) -> tuple[Swept, bool]:
        pace.begin()
        swept = self._sessions.sweep(connection, from_cleanup_at=position, limit=pace.size)
        kept = self._runs.advance(connection, run_id, removed=swept.removed)
        return swept, kept and swept.removed == pace.size  # a lost slot: another run goes on with the rest

    async def _remove_expired_values(self, run_id: str, stopping: asyncio.Event) -> None:
        pace, any_left = Pace(self._batch_size), True
        while any_left and not stopping.is_set():
            any_left = await self._database.write(partial(self._remove_values_batch, run_id=run_id, pace=pace))
            pace.end()
            if any_left:
                await self._database.give_way()

    def _remove_values_batch(self, connection: Any, *, run_id: str, pace: Pace) -> bool:
        pace.begin()
        removed = self._values.remove_expired(connection, limit=pace.size)
        return removed == pace.size and self._runs.advance(connection, run_id)

    async def _forget(self, run_id: str, stopping: asyncio.Event) -> int:
        if not await self._database.read(partial(self._events.may_remove, schema=self._schema)):
            log(
                logging.INFO,
                "retention_skipped",
                "old events stay: this role may not delete any; run 'mcp-sessions cleanup' as one that may",
            )
            return 0
        removed, pace, any_left = 0, Pace(self._batch_size), True
        while any_left and not stopping.is_set():
            batch = partial(self._forget_batch, run_id=run_id, pace=pace)
            forgotten, any_left = await self._database.write(batch)
            pace.end()
            removed += forgotten
            self._database.instruments.rows_removed("events", forgotten)
            if any_left:
                await self._database.give_way()
        return removed

    def _forget_batch(self, connection: Any, *, run_id: str, pace: Pace) -> tuple[int, bool]:
        pace.begin()
        events = self._events.remove(connection, older_than=self._retention, limit=pace.size)
        runs = self._runs.remove(connection, older_than=self._retention, limit=pace.size)
        kept = self._runs.advance(connection, run_id, events_removed=events)
        return events, kept and max(events, runs) == pace.size

    async def _drop_messages(self, stopping: asyncio.Event) -> int:
        """Remove what workers have left and nobody has fetched in time, and workers that are long dead."""
        await self._database.write(partial(self._workers.remove_dead, grace=LEASE))
        removed, pace, any_left = 0, Pace(self._batch_size), True
        while any_left and not stopping.is_set():
            dropped = await self._database.write(partial(self._drop_batch, pace=pace))
            pace.end()
            removed, any_left = removed + dropped, dropped == pace.size
            self._database.instruments.rows_removed("messages", dropped)
            if any_left:
                await self._database.give_way()
        return removed

    def _drop_batch(self, connection: Any, *, pace: Pace) -> int:
        pace.begin()
        return self._messages.remove(connection, older_than=self._message_retention, limit=pace.size)


def _untold(_removed: int) -> None:
    """Nobody wants to know."""
