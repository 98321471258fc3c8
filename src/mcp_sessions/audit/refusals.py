"""Refused uses: what an auditor hears of somebody who uses a session that belongs to another owner.

The caller learns nothing and waits for nothing: what is noted here is written a moment later, by a task of its own,
and a fault there is logged and forgotten. Nor can a stranger fill the audit trail. The same owner's attempts at the
same session count once an hour, whichever workers they reach, and one worker records no more than sixty in a minute.
"""

import asyncio
import logging
import time
from datetime import timedelta
from functools import partial

from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import EventRepository, Refusal
from mcp_sessions.errors import DatabaseError
from mcp_sessions.logs import log
from mcp_sessions.records.sessions import Owner, Session

QUIET_TIME = timedelta(hours=1)
"""How long attempts at one session by one owner count as one."""

MOST_A_MINUTE = 60
"""How many refused uses one worker records in a minute; the others are only counted, in the log."""


class RefusedUses:
    """Takes notes of refused uses and writes them down in the background."""

    def __init__(self, database: Backend) -> None:
        self._database = database
        self._events = EventRepository()
        self._noted: dict[tuple[bytes, Owner], float] = {}
        self._minute_began = -60.0
        self._this_minute = 0
        self._left_out = 0
        self._pending: list[Refusal] = []
        self._writer: asyncio.Task[None] | None = None

    def note(self, session: Session, claimed: Owner) -> None:
        """Note that a use was refused because the session is not the claimed owner's; never fails, never waits."""
        moment = time.monotonic()
        if moment >= self._minute_began + 60:
            self._begin_minute(moment)
        life_and_claim = session.digest, claimed
        if life_and_claim in self._noted:
            return
        if self._this_minute >= MOST_A_MINUTE:
            self._left_out += 1
            return
        self._this_minute += 1
        self._noted[life_and_claim] = moment
        self._pending.append(Refusal(session, claimed))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(), name="mcp-sessions refused uses")

    async def close(self) -> None:
        """Return once everything noted is written, or failed to be, and what was left out is in the log."""
        if self._writer is not None:
            await asyncio.wait([self._writer])
        self._log_left_out()

    def _begin_minute(self, moment: float) -> None:
        self._log_left_out()
        self._minute_began, self._this_minute = moment, 0
        oldest = moment - QUIET_TIME.total_seconds()
        self._noted = {key: noted for key, noted in self._noted.items() if noted > oldest}

    def _log_left_out(self) -> None:
        if self._left_out:
            log(
                logging.WARNING,
                "refused_uses_left_out",
                "%(count)s more refused uses of sessions by other owners than were recorded",
                count=self._left_out,
            )
        self._left_out = 0

    async def _write(self) -> None:
        try:
            while self._pending:
                refusals, self._pending = self._pending, []
                await self._record(refusals)
        finally:
            self._writer = None

    async def _record(self, refusals: list[Refusal]) -> None:
        try:
            await self._database.write(
                partial(self._events.record_refusals, refusals=refusals, quiet_time=QUIET_TIME), repeatable=True
            )
        except DatabaseError as fault:
            log(
                logging.ERROR,
                "refused_uses_not_recorded",
                "%(count)s refused uses of sessions could not be recorded: %(reason)s",
                count=len(refusals),
                reason=str(fault),
            )
