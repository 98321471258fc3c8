"""A process that lives lives of sessions: one manager in a process of its own, told by arguments what to do.

``python -m tests.support.lives TASK URL [ARGUMENT]...`` prints what it has to say as lines of JSON.
"""

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

from mcp_sessions import SessionExistsError, SessionManager

EVERY_USE = timedelta(0)


def say(value: Any) -> None:
    """Tell the test."""
    print(json.dumps(value), flush=True)  # noqa: T201 - its output is what a worker is for


async def live(url: str, prefix: str) -> None:
    """Live whole lives: create, resume, touch, end, log out and clean up; say how many sessions are left to others."""
    async with SessionManager.open(url, touch_interval=EVERY_USE) as manager:
        ids = [await manager.create_session(f"{prefix}-{n}", tenant_id=prefix) for n in range(15)]
        ids += await asyncio.gather(*(manager.create_session(tenant_id=prefix) for _ in range(15)))
        assert all(await asyncio.gather(*(manager.touch_session(each) for each in ids)))
        assert all([await manager.is_session_valid(each) for each in ids])
        assert await manager.get_active_session_count(tenant_id=prefix) == len(ids)
        assert await manager.terminate_session(ids[0])
        assert not await manager.touch_session(ids[0])
        await manager.cleanup_stale_sessions()
        assert await manager.terminate_sessions(tenant_id=prefix) == len(ids) - 1
        await manager.create_session(f"{prefix}-kept")
    say(prefix)


async def create(url: str, *session_ids: str) -> None:
    """Create sessions under given ids, as soon as the test says so; say for each whether this worker did."""
    async with SessionManager.open(url) as manager:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        for session_id in session_ids:
            try:
                await manager.create_session(session_id)
                say(True)
            except SessionExistsError:
                say(False)


async def touch(url: str, *session_ids: str) -> None:
    """Touch sessions again and again until none is live; say so after each round that found one."""
    async with SessionManager.open(url, touch_interval=EVERY_USE) as manager:
        while any(await asyncio.gather(*(manager.touch_session(each) for each in session_ids))):
            say("touched")
    say("none")


async def clean(url: str) -> None:
    """Clean up one session at a time, saying so after each."""
    async with SessionManager.open(url, cleanup_batch_size=1) as manager:
        await manager.cleanup_stale_sessions(progress=say)


async def count_up(url: str, session_id: str) -> None:
    """Count in the state of a session, without end, saying each number once it is stored."""
    async with SessionManager.open(url) as manager:
        session = await manager.get_session_metadata(session_id)
        assert session is not None
        while True:
            say(await manager.state(session).update("visits", lambda visits: (visits or 0) + 1))


TASKS = {task.__name__: task for task in (live, create, touch, clean, count_up)}

if __name__ == "__main__":
    asyncio.run(TASKS[sys.argv[1]](*sys.argv[2:]))
