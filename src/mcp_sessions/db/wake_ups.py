"""Wake-ups: how a worker learns that it is worth looking for messages. Rows are the truth; these are hints.

On Postgres one connection a worker listens, and whoever has stored a batch of messages notifies once. Where nobody can
listen, behind a PgBouncer in transaction mode, looking every now and then has to do. On SQLite other processes are
noticed by the counter of changes in the file, which costs microseconds to read. Losing a wake-up costs time, never a
message: a worker that waits for something looks by itself, too.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_sessions.db.faults import FAULTS, translated
from mcp_sessions.db.statements.messages import notify_others
from mcp_sessions.errors import DatabaseError
from mcp_sessions.logs import log

EVERYBODY = "*"
_CHANNEL = "mcp_sessions"
_LONGEST_LIST = 7000
"""Postgres bounds what a notification carries to 8,000 bytes; who does not fit is woken with everybody."""

_LISTENING_POLL_SECONDS = 1.0
_POLLING_SECONDS = 0.02
_FILE_POLL_SECONDS = 0.005
_RECONNECT_SECONDS = (0.1, 5.0)
"""The first and the longest pause before the next attempt to listen again."""

Woken = Callable[[], None]
Read = Callable[[Callable[[Connection], None]], Awaitable[None]]
"""Runs a unit of work that only reads."""


class WakeUps(Protocol):
    """Wakes workers up, and is woken.

    ``poll_seconds`` is how often a worker looks that waits for something, woken or not; ``changed`` tells whether a
    look may find anything.
    """

    poll_seconds: float

    async def send(self, recipients: Collection[str]) -> None:
        """Wake these workers up, by their ids; ``EVERYBODY`` wakes all. Never fails: a hint may be lost."""

    def listening(self, worker_id: str, woken: Woken) -> Any:
        """Be woken inside this asynchronous context."""

    def changed(self) -> bool:
        """Tell whether anything may have come since the last time this was asked."""


class FileWakeUps:
    """The wake-ups of SQLite: the file tells that another connection has changed it."""

    poll_seconds = _FILE_POLL_SECONDS

    def __init__(self, file: str) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._version = -1

    async def send(self, recipients: Collection[str]) -> None:
        """Do nothing: the change itself is seen."""

    @asynccontextmanager
    async def listening(self, _worker_id: str, _woken: Woken) -> AsyncIterator[None]:
        """Keep a connection to ask."""
        self._connection = sqlite3.connect(self._file, isolation_level=None)
        try:
            yield
        finally:
            self._connection.close()
            self._connection = None

    def changed(self) -> bool:
        """Ask for the counter of changes; a fault is a change, for whoever looks then will say it better."""
        if self._connection is None:
            return False
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return True
        before, self._version = self._version, version
        return bool(version != before)


class PostgresWakeUps:
    """The wake-ups of Postgres: LISTEN and NOTIFY, where a connection can listen."""

    def __init__(self, read: Read, listening_engine: Callable[[], AsyncEngine] | None) -> None:
        self._read = read
        self._listening_engine = listening_engine
        self.poll_seconds = _POLLING_SECONDS if listening_engine is None else _LISTENING_POLL_SECONDS
        self._worker_id = ""

    async def send(self, recipients: Collection[str]) -> None:
        """Notify once for all of them."""
        named = ",".join(recipients)
        if len(named) > _LONGEST_LIST:
            named = EVERYBODY
        try:
            await self._read(partial(_notify, worker_id=self._worker_id, recipients=named))
        except DatabaseError as fault:
            log(logging.WARNING, "wake_up_lost", "workers were not woken: %(reason)s", reason=str(fault))

    @asynccontextmanager
    async def listening(self, worker_id: str, woken: Woken) -> AsyncIterator[None]:
        """Listen on a connection of its own, which is made anew where it is lost."""
        self._worker_id = worker_id
        if self._listening_engine is None:
            yield
            return
        engine = self._listening_engine()
        task = asyncio.create_task(self._listen(engine, woken), name="mcp-sessions wake-ups")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await engine.dispose()

    def changed(self) -> bool:
        """Say yes: only a look can tell."""
        return True

    async def _listen(self, engine: AsyncEngine, woken: Woken) -> None:
        pause, longest = _RECONNECT_SECONDS
        while True:
            try:
                async with engine.connect() as connection:
                    driver: Any = (await connection.get_raw_connection()).driver_connection
                    await self._heard(driver, woken)
                    pause = _RECONNECT_SECONDS[0]
            except FAULTS as fault:
                reason = str(translated(fault, "that is listened to"))
                log(logging.WARNING, "not_listening", "not listening for wake-ups: %(reason)s", reason=reason)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _heard(self, driver: Any, woken: Woken) -> None:
        """Listen until the connection is lost."""
        lost = asyncio.Event()

        def hear(_connection: object, _process: int, _channel: str, recipients: str) -> None:
            if recipients == EVERYBODY or self._worker_id in recipients.split(","):
                woken()

        driver.add_termination_listener(lambda _connection: lost.set())
        await driver.add_listener(_CHANNEL, hear)
        woken()  # what was sent before stands in rows
        try:
            await lost.wait()
        finally:
            woken()
            with suppress(*FAULTS):
                await driver.remove_listener(_CHANNEL, hear)


def _notify(connection: Connection, *, worker_id: str, recipients: str) -> None:
    parameters = {"this_worker_id": worker_id, "channel": _CHANNEL, "recipients": recipients}
    connection.execute(notify_others(), parameters)
