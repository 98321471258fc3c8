"""What happens in the demo, step by step; each step is checked."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from mcp_sessions.examples.demo import DemoFailedError
from mcp_sessions.examples.demo.client import DemoClient, connected, status_of
from mcp_sessions.examples.demo.report import Report
from mcp_sessions.examples.demo.workers import Worker, Workers
from mcp_sessions.manager import SessionManager
from mcp_sessions.records.events import EventFilter, SessionEvent

if TYPE_CHECKING:
    from mcp_sessions.records.sessions import Session

_NOTE = "water the plants"
_OTHER_NOTE = "feed the cat"


class Scenario:
    """One run of it."""

    def __init__(self, report: Report, sessions: SessionManager, workers: Workers) -> None:
        self._report = report
        self._sessions = sessions
        self._workers = workers
        self._moments: dict[str, Session | None] = {}

    async def play(self) -> None:
        """Play it.

        Raises:
            DemoFailedError: a step did not end as it should. Other errors of the client and of the database, too.
        """
        a, b = await self._start("start")
        async with connected(a) as client:
            with self._report.step("The client opens a session on A, and has it remember a note"):
                await client.call(a, "remember", text=_NOTE)
                await self._check(client, [a], "a note on A", [_NOTE])
            with self._report.step("B, which never saw that session, serves it, and recalls the note"):
                await self._check(client, [b], "calls to B", [_NOTE])
            with self._report.step(f"Both are killed with SIGKILL: processes {a.pid} and {b.pid}"):
                await asyncio.gather(a.kill(), b.kill())
            a, b = await self._start("start again, as new processes")
            with self._report.step("Both serve the same session, and recall the note"):
                await self._check(client, [b, a], "kill -9 of both", [_NOTE])
            with self._report.step("A client of 2026-07-28, which has no sessions, creates one on B, by a tool"):
                handle = await self._created_by_tool(b)
            with self._report.step("The first client, given that handle, recalls the new one's note on A, and ends it"):
                await self._check_handle(client, a, handle)
        with self._report.step("The client ended it with DELETE on A: 404 from A, 404 from B"):
            await self._check_ended(client.session_id, [a, b])
        with self._report.step("A new initialize, on B, opens a new session"):
            await self._check_new(client.session_id, b)
        with self._report.step("The audit trail tells how all sessions began and ended"):
            events = await self._checked_trail()
        self._report.life(self._moments)
        self._report.trail(events)

    async def _start(self, verb: str) -> tuple[Worker, Worker]:
        with self._report.step(f"Workers A and B {verb}"):
            a, b = await self._workers.start("A", "B")
            return a, b

    async def _check(self, client: DemoClient, workers: Iterable[Worker], moment: str, notes: list[str]) -> None:
        """Check that these very processes answer, in the very session that the database has, with its notes."""
        for worker in workers:
            pid = (await client.call(worker, "this_worker"))["pid"]
            if pid != worker.pid:
                raise DemoFailedError(f"process {pid} answered for worker {worker.name}, which is {worker.pid}")
            digest = (await client.call(worker, "this_session"))["digest"]
            self._moments[moment] = session = await self._sessions.get_session_metadata(client.session_id)
            if session is None or digest != session.short_digest:
                raise DemoFailedError(f"worker {worker.name} serves {digest}, which the database does not have")
            if (recalled := (await client.call(worker, "recall"))["result"]) != notes:
                raise DemoFailedError(f"worker {worker.name} recalls {recalled}")

    async def _created_by_tool(self, worker: Worker) -> str:
        """Return the handle of a session that a client of the newest revision created, and keeps a note in."""
        async with connected(worker, newest=True) as client:
            handle: str = (await client.call(worker, "create_session"))["session"]
            await client.call(worker, "remember", session=handle, text=_OTHER_NOTE)
            if client.session_id:
                raise DemoFailedError("the newest revision got a session of its own")
        self._moments["create_session"] = await self._sessions.get_session_metadata(handle)
        return handle

    async def _check_handle(self, client: DemoClient, worker: Worker, handle: str) -> None:
        if (recalled := (await client.call(worker, "recall", session=handle))["result"]) != [_OTHER_NOTE]:
            raise DemoFailedError(f"worker {worker.name} recalls {recalled} by handle")
        await client.call(worker, "end_session", session=handle)

    async def _check_ended(self, session_id: str, workers: Iterable[Worker]) -> None:
        self._moments["DELETE"] = session = await self._sessions.get_session_metadata(session_id)
        if session is not None:
            raise DemoFailedError("the database still has the session")
        for worker in workers:
            if (status := await status_of(worker, session_id)) != HTTPStatus.NOT_FOUND:
                raise DemoFailedError(f"worker {worker.name} answered {status}")

    async def _check_new(self, old_session_id: str, worker: Worker) -> None:
        async with connected(worker) as client:
            await self._check(client, [worker], "a new initialize", [])
            if client.session_id == old_session_id:
                raise DemoFailedError("the new session has the old id")

    async def _checked_trail(self) -> list[SessionEvent]:
        """Return the events of both sessions, oldest first, having checked that they are all there should be."""
        trail: list[SessionEvent] = []
        for digest in dict.fromkeys(session.digest for session in self._moments.values() if session is not None):
            events = [*await self._sessions.list_events(EventFilter(digest_prefix=digest.hex()))][::-1]
            if [(event.kind, event.actor) for event in events] != [("created", "owner"), ("terminated", "owner")]:
                raise DemoFailedError(f"the audit trail tells otherwise: {events}")
            trail += events
        return trail
