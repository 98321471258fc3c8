"""The queue for restores: owners in turn, and none kept for long."""

import asyncio

import pytest

from mcp_sessions.asgi.restore_queue import RestoreQueue
from mcp_sessions.records.sessions import Owner
from tests.support.polling import until

ONE, OTHER = Owner("one"), Owner("other")


async def test_owners_have_their_turns() -> None:
    """Who waits with one request comes before the second of an owner who waits with a hundred."""
    queue, order = RestoreQueue(1, longest=60), list[str]()

    async def take(owner: Owner) -> None:
        async with queue.turn(owner):
            order.append(str(owner.tenant_id))
            await asyncio.sleep(0)

    await asyncio.gather(*(take(ONE) for _ in range(100)), take(OTHER))
    assert order.index("other") <= 2
    assert len(order) == 101


async def test_slow_one_gives_its_place_away() -> None:
    """A place that is kept for too long is another's, and comes back once only."""
    queue, gate, inside = RestoreQueue(1, longest=0.01), asyncio.Event(), list[int]()

    async def take(number: int) -> None:
        async with queue.turn(ONE):
            inside.append(number)
            await gate.wait()

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(take(number))
        await until(lambda: len(inside) == 5)
        gate.set()
    assert queue._free == 1


@pytest.mark.parametrize("when", ["before its turn", "in its turn"])
async def test_cancelled_one_keeps_no_place(when: str) -> None:
    """Whoever leaves while waiting, or at the very moment that a place comes free, takes none along."""
    queue = RestoreQueue(1, longest=60)

    async def take() -> None:
        async with queue.turn(ONE):
            pass

    holding = queue.turn(ONE)
    await holding.__aenter__()
    waiting = asyncio.create_task(take())
    await asyncio.sleep(0)
    if when == "in its turn":
        await holding.__aexit__(None, None, None)
        waiting.cancel()
    else:
        waiting.cancel()
        await asyncio.wait({waiting})
        await holding.__aexit__(None, None, None)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await take()
    assert queue._free == 1
