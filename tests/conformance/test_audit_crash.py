"""The trail when the server crashes: killed amid creations and ends, again and again, and recovered from its log."""

import asyncio
import uuid
from collections import defaultdict
from typing import NamedTuple

import pytest

from mcp_sessions import DatabaseUnavailableError, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.managers import ON_POSTGRES, OpenManager, eventually
from tests.support.postgres import PostgresServer
from tests.support.trail import Trail

pytestmark = ON_POSTGRES

CALLERS = 8

Kinds = list[str]


class Scale(NamedTuple):
    """How often the server is killed, and how many sessions are opened before each time."""

    kills: int
    sessions: int


class Callers:
    """Callers who open and end sessions, and what the trail may say of each: one thing, once it was acknowledged."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self.possible: dict[str, list[Kinds]] = {}

    async def call_until_refused(self) -> None:
        """Open two sessions, end one, log its tenant out, over and over until the database is away."""
        try:
            while True:
                tenant_id = uuid.uuid4().hex
                one, other = await self._create(tenant_id), await self._create(tenant_id)
                self._ends(one, "terminated")
                assert await self._manager.terminate_session(one)
                self._ended(one)
                self._ends(other, "revoked")
                assert await self._manager.terminate_sessions(tenant_id=tenant_id) == 1
                self._ended(other)
        except DatabaseUnavailableError:
            return

    async def _create(self, tenant_id: str) -> str:
        session_id = await self._manager.create_session(tenant_id=tenant_id)
        self.possible[session_id] = [["created"]]
        return session_id

    def _ends(self, session_id: str, kind: str) -> None:
        self.possible[session_id].append(["created", kind])

    def _ended(self, session_id: str) -> None:
        self.possible[session_id] = self.possible[session_id][-1:]


async def crash_under_load(server: PostgresServer, callers: Callers, sessions: int) -> None:
    """Kill the server once so many more sessions were opened, and start it again when every caller has noticed."""
    enough = len(callers.possible) + sessions
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(callers.call_until_refused())
        await eventually(lambda: len(callers.possible) >= enough, "sessions to be opened", seconds=60)
        await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scale", [Scale(2, 60), pytest.param(Scale(15, 300), marks=pytest.mark.long)], ids=str)
async def test_the_trail_agrees_after_crashes(
    open_manager: OpenManager, postgres_server: PostgresServer, trail: Trail, scale: Scale
) -> None:
    """What was acknowledged outlives a crash, what was not is there as a whole or not at all, in trail and table."""
    callers = Callers(await open_manager())
    for _ in range(scale.kills):
        await crash_under_load(postgres_server, callers, scale.sessions)
        await trail.agrees_with_the_table()

    recorded: dict[bytes, Kinds] = defaultdict(list)
    for event in await trail.events():
        recorded[bytes(event["session_digest"])].append(event["kind"])
    for session_id, possible in callers.possible.items():
        assert recorded.pop(digest_of(session_id)) in possible
    # What nobody was told of: the creation that each caller was in when the server was killed.
    assert list(recorded.values()) == [["created"]] * len(recorded)
    assert len(recorded) <= scale.kills * CALLERS
