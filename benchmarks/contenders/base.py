"""What a contender can do: fill its store with the population, and make calls."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, Self

import asyncpg

from mcp_sessions.db.schema.revisions import upgrade
from mcp_sessions.settings import Settings

POOL_SIZE = 10
IDLE_SECONDS = 1800
TOUCH_INTERVAL_SECONDS = 60
_AT_ONCE = 1000


Call = Callable[[int], Awaitable[None]]
"""One call for the session of this number."""


class Operation(StrEnum):
    """The calls on sessions that are measured."""

    RESUME_TOUCHING = "resume, every call touches"
    RESUME = "resume, default settings"
    CREATE = "create"
    CREATE_AND_END = "create and terminate"


class StateOperation(StrEnum):
    """The calls on what belongs to a session that are measured."""

    GET = "state: get"
    SET = "state: set"
    UPDATE = "state: update"
    UPDATE_OF_FEW = "state: update, of sixteen sessions"


class Contender(ABC):
    """One way to keep something. A call that does not find it raises: errors are not to be measured."""

    name: ClassVar[str]
    settings: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def is_sqlite(self) -> bool:
        """Whether it works on SQLite here."""
        return self.url.startswith("sqlite")

    @property
    def sqlite_file(self) -> str:
        """The path of the SQLite file."""
        return self.url.removeprefix("sqlite:///")

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect."""

    @abstractmethod
    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""

    @abstractmethod
    async def fill(self, count: int) -> None:
        """Store the sessions of the first ``count`` clients, however it goes fastest."""

    async def prepare(self, operation: str, numbers: Sequence[int]) -> None:  # noqa: B027 - most need nothing
        """Get ready for a burst of this operation on the sessions of these clients; not measured."""

    @abstractmethod
    def calls(self) -> Mapping[str, Call]:
        """Return what it takes part in, by operation."""

    async def lost(self) -> float:
        """Return the share of what it acknowledged in the last burst that is not there."""
        return 0.0


class SessionContender(Contender):
    """One way to keep sessions."""

    def calls(self) -> Mapping[str, Call]:
        return {
            Operation.RESUME_TOUCHING: self.resume_touching,
            Operation.RESUME: self.resume,
            Operation.CREATE: self.create,
            Operation.CREATE_AND_END: self.create_and_end,
        }

    @abstractmethod
    async def resume_touching(self, number: int) -> None:
        """Find the session of this client, check its owner and expiry, and record the activity durably."""

    async def resume(self, number: int) -> None:
        """Find the session of this client, check owner and expiry, and record the activity where it is due."""
        await self.resume_touching(number)

    @abstractmethod
    async def create(self, number: int) -> None:
        """Store a new session for this client."""

    async def create_and_end(self, number: int) -> None:
        """Store a new session for this client and end it again."""
        raise NotImplementedError(f"{self.name} does not take part in this")


_UPDATES = {StateOperation.UPDATE, StateOperation.UPDATE_OF_FEW}

CART = [{"name": name, "pieces": 3, "price": "12.50"} for name in ("apples", "pears", "plums")]
"""What is got and set: about a hundred and fifty bytes of JSON."""


class StateContender(Contender):
    """One way to keep JSON values by name that belong to sessions: each has a cart, and counts its visits."""

    _acknowledged = _visits_before = 0
    _numbers: Sequence[int] = ()

    async def prepare(self, operation: str, numbers: Sequence[int]) -> None:
        self._acknowledged = 0
        if operation in _UPDATES:
            self._numbers = numbers
            self._visits_before = await self._visits()

    def calls(self) -> Mapping[str, Call]:
        return {
            StateOperation.GET: self.get,
            StateOperation.SET: self.set,
            StateOperation.UPDATE: self._updated,
            StateOperation.UPDATE_OF_FEW: self._updated,
        }

    async def lost(self) -> float:
        if not self._acknowledged:
            return 0.0
        return 1 - (await self._visits() - self._visits_before) / self._acknowledged

    @abstractmethod
    async def get(self, number: int) -> None:
        """Read the cart of this session."""

    @abstractmethod
    async def set(self, number: int) -> None:
        """Store the cart of this session."""

    @abstractmethod
    async def update(self, number: int) -> None:
        """Count one more visit of this session."""

    @abstractmethod
    async def visits(self, number: int) -> int:
        """Return how many visits of this session were counted."""

    async def _updated(self, number: int) -> None:
        await self.update(number)
        self._acknowledged += 1

    async def _visits(self) -> int:
        return sum(await asyncio.gather(*(self.visits(number) for number in self._numbers)))


async def for_each(act: Call, count: int) -> None:
    """Act for the first ``count`` clients, many of them at once."""
    for start in range(0, count, _AT_ONCE):
        await asyncio.gather(*(act(number) for number in range(start, min(count, start + _AT_ONCE))))


async def settle(url: str, *tables: str) -> None:
    """Leave tables of Postgres vacuumed and analysed, as they are where it has had the time; plans are made anew."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"VACUUM ANALYZE {', '.join(tables)}")
    finally:
        await connection.close()


def require(found: object) -> None:
    """Refuse to measure a call that found nothing."""
    if not found:
        raise LookupError("a session of the population was not found: the burst is void")


async def migrate(url: str) -> None:
    """Bring an empty database to the schema of ``mcp_sessions``."""
    await upgrade(Settings(database_url=url))
