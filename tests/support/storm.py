"""A worker process that does everything to a few sessions at once, until it is killed or its standard input ends.

``python -m tests.support.storm URL`` says which change was acknowledged, one line each: what, the digest, how many.
Sessions have few ids, which all workers share, and expire in an instant: lives of one id follow each other, and
workers meet over each.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from mcp_sessions import SessionExistsError, SessionManager
from mcp_sessions.db.repositories import CleanupRunRepository
from mcp_sessions.digests import digest_of

IDS = [f"storm-{number}" for number in range(100)]
TENANTS = ("acme", "globex", "umbrella")
A_MOMENT = timedelta(seconds=0.2)
ENDS_PER_SECOND = 50
"""How often the workers move on from the one session that they all end."""

CREATORS = 4
"""How many creations of one worker may be under way, and so unheard of, when it is killed."""


def say(what: str, session_id: str | None = None, count: int = 1) -> None:
    """Tell the test what was acknowledged."""
    print(what, digest_of(session_id).hex() if session_id else "-", count, flush=True)  # noqa: T201 - its output


class Storm:
    """What one worker does, each thing again and again."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    async def create(self) -> None:
        """Create a session, if its id is free."""
        session_id = random.choice(IDS)  # noqa: S311 - nothing secret
        try:
            await self._manager.create_session(session_id, tenant_id=random.choice(TENANTS))  # noqa: S311
        except SessionExistsError:
            return
        say("created", session_id)

    async def touch(self) -> None:
        """Touch some sessions together."""
        await asyncio.gather(*(self._manager.touch_session(each) for each in random.sample(IDS, 5)))

    async def end(self) -> None:
        """End one session: the same that the other workers end in this instant."""
        session_id = IDS[int(time.time() * ENDS_PER_SECOND) % len(IDS)]
        if await self._manager.terminate_session(session_id):
            say("terminated", session_id)

    async def end_tenant(self) -> None:
        """End all sessions of a tenant."""
        say("revoked", count=await self._manager.terminate_sessions(tenant_id=random.choice(TENANTS)))  # noqa: S311

    async def clean(self) -> None:
        """Clean up, unless another worker is at it."""
        removed = await self._manager._cleanup.run_unless_recent(timedelta(0), asyncio.Event())
        say("expired", count=removed or 0)

    async def rage(self) -> None:
        """Do it all at once until standard input ends."""
        over = asyncio.Event()
        tasks = [*[self.create] * CREATORS, self.touch, self.touch, self.end, self.end_tenant, self.clean]
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(_again(task, over))
            await asyncio.to_thread(sys.stdin.readline)
            over.set()


async def _again(task: Callable[[], Awaitable[None]], over: asyncio.Event) -> None:
    while not over.is_set():
        await task()
        await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - so that the others have their turn


async def _main(url: str) -> None:
    async with SessionManager.open(
        url, idle_timeout=A_MOMENT, touch_interval=timedelta(0), cleanup_batch_size=3, scheduled_cleanup=False
    ) as manager:
        manager._cleanup._runs = CleanupRunRepository(A_MOMENT)  # a killed cleaner is replaced while the storm goes on
        say("ready")
        await Storm(manager).rage()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
