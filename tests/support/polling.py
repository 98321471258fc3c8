"""Wait for something to become true, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable

_PAUSE = 0.01


async def until(condition: Callable[[], bool | Awaitable[bool]], *, patience: float = 10.0) -> None:
    """Wait until the condition holds; fails after ``patience`` seconds."""
    async with asyncio.timeout(patience):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(_PAUSE)
