"""The queue for restores: so many at once, and no owner keeps another from theirs.

After a restart all clients come back together, and all their restores at once would time out together. Those who
wait have their turns owner by owner, so an owner with a thousand sessions waits for their own. A restore that takes
long waits for something else than this worker's processor (the app asks a service of its own, perhaps), so its turn
ends after a while, and it goes on beside the next one: slow ones hold nobody up for longer than that.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from mcp_sessions.records.sessions import Owner


class RestoreQueue:
    """Gives turns, to as many at once as there may be.

    Args:
        count: how many have their turn at once.
        longest: how many seconds a turn lasts at most.

    """

    def __init__(self, count: int, *, longest: float) -> None:
        self._free = count
        self._longest = longest
        self._waiting: OrderedDict[Owner, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncIterator[None]:
        """Have a turn, which ends with the block, or before it after the longest time."""
        await self._wait(owner)
        ending = asyncio.get_running_loop().call_later(self._longest, self._end_turn)
        try:
            yield
        finally:
            if ending.when() > asyncio.get_running_loop().time():
                ending.cancel()
                self._end_turn()

    async def _wait(self, owner: Owner) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._end_turn()  # its turn had come
            raise

    def _end_turn(self) -> None:
        while self._waiting:
            owner, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
