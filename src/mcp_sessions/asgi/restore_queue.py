"""The places for restores: so many at once, and no owner keeps another from theirs.

After a restart all clients come back together, and all their restores at once would time out together. Those who wait
for a place are asked by owner in turn, so an owner with a thousand sessions waits for their own. A restore that takes
long waits for something else than this worker's processor (the app asks a service of its own, perhaps), so it gives
its place to the next one after a while and goes on without: slow ones hold nobody up for longer than that.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from mcp_sessions.records.sessions import Owner


class Places:
    """A number of places.

    Args:
        count: how many there are.
        longest: for how many seconds one is kept.

    """

    def __init__(self, count: int, *, longest: float) -> None:
        self._free = count
        self._longest = longest
        self._waiting: OrderedDict[Owner, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def taken(self, owner: Owner) -> AsyncIterator[None]:
        """Have a place, at most for the longest time that one is kept."""
        await self._wait(owner)
        giving_back = asyncio.get_running_loop().call_later(self._longest, self._give_back)
        try:
            yield
        finally:
            if giving_back.when() > asyncio.get_running_loop().time():
                giving_back.cancel()
                self._give_back()

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
                self._give_back()  # its turn had come
            raise

    def _give_back(self) -> None:
        while self._waiting:
            owner, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
