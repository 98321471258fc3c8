"""Whom the layers tell what happens, so that it can be measured: by default nobody.

``telemetry`` listens, where the setting of that name is on. The layers call these methods at few places; none of them
waits, raises or learns a session id, and nothing that a client chooses freely becomes an attribute.
"""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Pool(Protocol):
    """What is told of the connections of a database."""

    shown_url: str

    @property
    def connections_in_use(self) -> int:
        """How many are in use right now."""


class Instruments:
    """Told what happens on this worker, and forgets it.

    Attributes:
        is_on: whether anybody listens; where preparing what to tell costs something, it is asked first.
    """

    is_on = False

    def session_created(self) -> None:
        """A session was stored."""

    def session_resumed(self) -> None:
        """A session was used by its owner."""

    def session_refused(self) -> None:
        """A use was refused: the session is unknown, expired, ended or another's."""

    def session_ended(self, created_at: datetime) -> None:
        """One session was ended, whose life began then."""

    def sessions_ended(self, kind: str, count: int) -> None:
        """So many were ended together, or removed by the cleanup since they had expired."""

    def session_restored(self, outcome: str, seconds: float) -> None:
        """A restore was tried and took so long; ``outcome`` is ``restored``, or the name of what went wrong."""

    def batch_begun(self, name: str, calls: int, waited_seconds: float) -> None:
        """So many calls of one kind go to the database together, and the first of them has waited that long."""

    def rows_removed(self, rows: str, count: int) -> None:
        """A batch of a cleanup run has removed so many sessions, events or messages."""

    def cleanup_ended(self, outcome: str) -> None:
        """A cleanup run is over: it is done, was stopped, or has failed."""

    def messages_sent(self, kind: str, count: int) -> None:
        """Messages were left for other workers."""

    def message_received(self, kind: str) -> None:
        """A message of another worker was handled."""

    def session_of_request(self, short_digest: str) -> None:
        """The request that is being served is of this session."""

    @contextmanager
    def request(self, scope: Message, receive: Receive, send: Send) -> Iterator[tuple[Receive, Send]]:  # noqa: ARG002 - nobody follows
        """Follow a request; what is yielded stands in for ``receive`` and ``send``."""
        yield receive, send

    def watch(self, pool: Pool, pool_size: int, count_live: Callable[[], Awaitable[int]]) -> None:
        """A database was opened; called in the event loop that it belongs to."""

    async def unwatch(self, pool: Pool) -> None:
        """It is about to be closed."""


NOBODY = Instruments()
"""Nobody listens."""
