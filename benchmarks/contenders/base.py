"""What a contender can do: fill its store with the population, and make calls."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from mcp_sessions.db.schema.revisions import upgrade
from mcp_sessions.settings import Settings

POOL_SIZE = 10
IDLE_SECONDS = 1800
TOUCH_INTERVAL_SECONDS = 60


class Operation(StrEnum):
    """The calls that are measured."""

    RESUME_TOUCHING = "resume, every call touches"
    RESUME = "resume, default settings"
    CREATE = "create"
    CREATE_AND_END = "create and terminate"


class Contender(ABC):
    """One way to keep sessions. A call that does not find its session raises: errors are not to be measured."""

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

    async def prepare(self, operation: Operation, numbers: Sequence[int]) -> None:  # noqa: B027 - most need nothing
        """Get ready for a burst of this operation on the sessions of these clients; not measured."""

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


def require(found: object) -> None:
    """Refuse to measure a call that found nothing."""
    if not found:
        raise LookupError("a session of the population was not found: the burst is void")


async def migrate(url: str) -> None:
    """Bring an empty database to the schema of ``mcp_sessions``."""
    await upgrade(Settings(database_url=url))
