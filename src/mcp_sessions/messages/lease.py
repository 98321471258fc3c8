"""The lease of a worker: as long as it moves on, others take the worker to be alive."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import WorkerRepository
from mcp_sessions.errors import DatabaseError
from mcp_sessions.logs import log

_PER_LEASE = 3  # it must move on in time, also where one statement fails
_GRACE = timedelta(minutes=1)
"""How long a dead worker's row is kept beyond its lease; after that its absence says as much."""


class Lease:
    """Keeps the lease of one worker; where it ran out all the same, ``lapsed`` is called before it begins anew."""

    def __init__(self, database: Backend, worker_id: str, length: timedelta, lapsed: Callable[[], None]) -> None:
        self._database = database
        self._worker_id = worker_id
        self._length = length
        self._workers = WorkerRepository(length)
        self._lapsed = lapsed

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Begin the lease, keep it inside this context, and end it.

        Raises:
            DatabaseError: it could not begin.
        """
        await self._database.write(partial(self._workers.remove_dead, grace=_GRACE))
        await self._database.write(partial(self._workers.insert, worker_id=self._worker_id))
        keeping = asyncio.create_task(self._keep(), name="mcp-sessions lease")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            with suppress(DatabaseError):  # it runs out by itself
                await self._database.write(partial(self._workers.remove, worker_id=self._worker_id))

    async def is_alive(self, worker_id: str) -> bool:
        """Tell whether a worker's lease runs.

        Raises:
            DatabaseError: the database failed; nothing is known of the worker.
        """
        return await self._database.read(partial(self._workers.is_alive, worker_id=worker_id))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._length.total_seconds() / _PER_LEASE)
            try:
                await self._moved_on()
            except DatabaseError as fault:
                log(
                    logging.WARNING,
                    "lease_not_extended",
                    "the worker's lease stands still: %(reason)s",
                    reason=str(fault),
                )

    async def _moved_on(self) -> None:
        if await self._database.write(partial(self._workers.extend_lease, worker_id=self._worker_id)):
            return
        log(logging.WARNING, "lease_lapsed", "the worker's lease ran out: others took it to be dead")
        self._lapsed()
        await self._database.write(self._begun_anew)

    def _begun_anew(self, connection: Any) -> None:
        self._workers.remove(connection, worker_id=self._worker_id)
        self._workers.insert(connection, worker_id=self._worker_id)
