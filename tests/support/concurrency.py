"""Things done at the same time."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def together(*calls: Awaitable[T]) -> list[T]:
    """Make calls at the same time, and return their answers in order."""
    return list(await asyncio.gather(*calls))
