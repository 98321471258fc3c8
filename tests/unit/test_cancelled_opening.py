"""A manager whose opening is cancelled, at whichever step."""

import asyncio
import threading

import pytest

from mcp_sessions import SessionManager


@pytest.mark.parametrize("moments", range(12))
def test_a_cancelled_opening_leaves_no_thread_behind(database_url: str, moments: int) -> None:
    """Once the cancelled caller has its answer and the loop is closed, no thread goes on or misses the loop."""
    before = set(threading.enumerate())

    async def open_and_cancel() -> None:
        async def open_manager() -> None:
            async with SessionManager.open(database_url, scheduled_cleanup=False):
                pass

        opening = asyncio.ensure_future(open_manager())
        for _ in range(moments):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])

    asyncio.run(open_and_cancel())
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)  # one that has done its last work may take a moment to go; a crash fails the test
        assert not thread.is_alive()
