"""Mailboxes of workers, and what came to them."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mcp_sessions.messages.mailbox import Mailbox

if TYPE_CHECKING:
    from mcp_sessions.db.repositories import Message


class Received:
    """One worker's mailbox, and what came to it."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.messages: list[Message] = []
        mailbox.on("greeting", self.messages.append)

    async def send(self, kind: str, body: str, digest: bytes, *, to: "Received | None" = None) -> bool:
        """Send a message about a session, to one worker or to all others."""
        worker_id = None if to is None else to.mailbox.worker_id
        return await self.mailbox.send(kind, body, session_digest=digest, worker_id=worker_id)

    @property
    def bodies(self) -> list[str]:
        """What the messages say, in the order they came."""
        return [message.body for message in self.messages]


OpenMailbox = Callable[..., Awaitable[Received]]
