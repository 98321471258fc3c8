"""SQLite's checkpoints, out of the way of commits.

By default the commit that fills the WAL's thousandth page copies the whole WAL into the database file, and whoever
waits for that commit waits for the copy. Here a connection of its own does it, a moment after something was written.
Durability does not depend on it: a commit has synchronised the WAL before it returns.
"""

import asyncio
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

_DELAY_SECONDS = 0.2


class Checkpoints:
    """Copies the WAL into the file in the background, a moment after a write."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None

    def note_write(self) -> None:
        """Have a checkpoint made soon."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._soon(), name="mcp-sessions checkpoint")
            self._task.add_done_callback(self._done)

    async def close(self) -> None:
        """Make no more checkpoints; SQLite makes the last one when the last connection closes."""
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _soon(self) -> None:
        await asyncio.sleep(_DELAY_SECONDS)
        with suppress(SQLAlchemyError):  # the next one will do; at the limit of the WAL a commit does it
            async with self._engine.connect() as connection:
                await connection.execute(text("PRAGMA wal_checkpoint(PASSIVE)"))

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._task = None
