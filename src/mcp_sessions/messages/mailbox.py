"""The mailbox of a worker: what others leave for it, and what it leaves for others.

Messages that are sent at the same moment share a statement and one wake-up. What comes is handed to the handler of its
kind, in the order of the sender's calls; a handler must not wait. A message to one worker reaches that worker or nobody
(it is told which); one to all of them reaches each that is alive, but not its sender.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial

from mcp_sessions.batching.batcher import Batcher
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import Message, MessageRepository, Outgoing
from mcp_sessions.db.wake_ups import EVERYBODY
from mcp_sessions.errors import DatabaseRefusedError, McpSessionsError
from mcp_sessions.logs import log, logger
from mcp_sessions.messages.lease import Lease
from mcp_sessions.settings import Settings

__all__ = ["Handler", "Mailbox", "Message"]

Handler = Callable[[Message], None]
"""Takes one message; what it cannot do at once it begins in a task."""

_AT_ONCE = 256
_WORKER_ID_BYTES = 9


class Mailbox:
    """The mailbox of this process, open inside ``opened()``.

    Attributes:
        worker_id: the name of this worker, 12 characters that no other worker ever has.
        lease: who is alive.
    """

    def __init__(self, database: Backend, settings: Settings) -> None:
        self.worker_id = secrets.token_urlsafe(_WORKER_ID_BYTES)
        self.lease = Lease(database, self.worker_id, settings.worker_lease, self._lapsed)
        self._database = database
        self._messages = MessageRepository()
        self._wake_ups = database.wake_ups()
        self._handlers: dict[str, Handler] = {}
        self._when_lapsed: list[Callable[[], None]] = []
        self._woken = asyncio.Event()
        self._waiting = 0
        self._to_all = _MessagesToAll(2 * settings.statement_timeout.total_seconds())
        self._outgoing: Batcher[Outgoing, bool] = Batcher(
            self._send_all,
            name="send_message",
            max_batch=settings.max_batch,
            max_queued=settings.max_queued,
            divisible=DatabaseRefusedError,
            instruments=database.instruments,
        )

    def on(self, kind: str, handler: Handler) -> None:
        """Have messages of this kind handled."""
        self._handlers[kind] = handler

    def on_lapse(self, act: Callable[[], None]) -> None:
        """Act where this worker's lease ran out: others have answered for it meanwhile."""
        self._when_lapsed.append(act)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Begin the lease and look for messages, until this context is left.

        Raises:
            DatabaseError: the database failed.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.lease.kept())
            self._to_all.begin_behind(await self._database.read(self._messages.newest))
            await stack.enter_async_context(self._wake_ups.listening(self.worker_id, self._woken.set))
            looking = asyncio.create_task(self._look_for_ever(), name="mcp-sessions mailbox")
            stack.push_async_callback(_ended, looking)
            stack.push_async_callback(self._outgoing.close)
            yield

    async def send(
        self, kind: str, body: str, *, session_digest: bytes | None = None, worker_id: str | None = None
    ) -> bool:
        """Leave a message for one worker, or for all others; True once it is stored for somebody.

        False: the worker is not alive, or no other one, or the session not live; nothing was stored.

        Raises:
            DatabaseError: the database failed; whether the message was stored is not known.
            OverloadedError: too many are waiting to be stored.
        """
        return await self._outgoing.submit(Outgoing(kind, body, session_digest, worker_id))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Look for messages now and then inside this context, woken or not: somebody waits for one."""
        self._waiting += 1
        self._woken.set()  # one may have come already
        try:
            yield
        finally:
            self._waiting -= 1

    async def _send_all(self, outgoing: Sequence[Outgoing]) -> Sequence[bool]:
        send = partial(self._messages.send, outgoing=outgoing, sender=self.worker_id)
        stored, to_all = await self._database.write(send)
        self._to_all.note_own(to_all)
        recipients = {
            each.worker_id or EVERYBODY for each, is_stored in zip(outgoing, stored, strict=True) if is_stored
        }
        for kind, count in Counter(each.kind for each, was in zip(outgoing, stored, strict=True) if was).items():
            self._database.instruments.messages_sent(kind, count)
        if recipients:
            await self._wake_ups.send({EVERYBODY} if EVERYBODY in recipients else recipients)
        return stored

    async def _look_for_ever(self) -> None:
        while True:
            await self._until_worth_a_look()
            try:
                await self._look()
            except McpSessionsError as fault:
                log(logging.WARNING, "messages_not_read", "messages were not read: %(reason)s", reason=str(fault))
                await asyncio.sleep(self._wake_ups.poll_seconds)
                self._woken.set()

    async def _until_worth_a_look(self) -> None:
        while not self._woken.is_set():
            patience = self._wake_ups.poll_seconds if self._waiting else None
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._woken.wait()
            if self._waiting and self._wake_ups.changed():
                break
        self._woken.clear()

    async def _look(self) -> None:
        more = True
        while more:
            look = partial(self._messages.look, behind=self._to_all.settled)
            found = await self._database.read(partial(look, worker_id=self.worker_id, limit=_AT_ONCE))
            own: list[Message] = []
            if found.has_own:  # removed first: what is read twice would be handled twice
                take = partial(self._messages.take, worker_id=self.worker_id, limit=_AT_ONCE)
                own = await self._database.write(take)
            for message in sorted([*own, *self._to_all.new(found.to_all)]):
                self._handle(message)
            more = found.is_full and bool(own or found.to_all)

    def _handle(self, message: Message) -> None:
        handler = self._handlers.get(message.kind)
        if handler is None:  # a newer version's
            log(logging.WARNING, "message_unknown", "a message of the unknown kind %(kind)s", kind=message.kind)
            return
        self._database.instruments.message_received(message.kind)
        try:
            handler(message)
        except Exception:  # noqa: BLE001 - one message that cannot be handled must not keep others waiting
            logger.exception("a message was not handled", extra={"operation": "message_failed"})

    def _lapsed(self) -> None:
        for act in self._when_lapsed:
            act()


class _MessagesToAll:
    """Which messages to all workers were read: a number is given out before its transaction commits.

    So one may appear behind another with a higher number, for as long as a transaction may take (``settle_seconds``):
    what is younger is read again, and what was seen is left out.
    """

    def __init__(self, settle_seconds: float) -> None:
        self.settled = 0
        self._settle_seconds = settle_seconds
        self._seen: dict[int, float] = {}

    def begin_behind(self, message_id: int) -> None:
        """Leave out what there is already."""
        self.settled = message_id

    def note_own(self, message_ids: set[int]) -> None:
        """Leave out what this worker has sent itself."""
        moment = time.monotonic()
        self._seen.update(dict.fromkeys(message_ids, moment))

    def new(self, read: Sequence[Message]) -> list[Message]:
        """Return those that were not seen before."""
        moment = time.monotonic()
        new = [message for message in read if message.message_id not in self._seen]
        self._seen.update((message.message_id, moment) for message in new)
        old = [message_id for message_id, seen in self._seen.items() if seen < moment - self._settle_seconds]
        if old:
            self.settled = max(self.settled, *old)
            self._seen = {message_id: seen for message_id, seen in self._seen.items() if message_id > self.settled}
        return new


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
