"""A bus of subscriptions that spans the workers: ``subscriptions/listen`` streams hear what any of them publishes.

The revision 2026-07-28 has no session and no GET stream: a client that wants to hear of changes asks for them by a
request whose answer is the stream (SEP-2575). The SDK hands what is published to a bus, and its own reaches one
process. Here an event also goes to the other workers, as a message about no session. As the specification has it,
delivery is a hint to fetch anew: nothing is kept for a stream that is not open.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Unpack

from mcp.server.subscriptions import InMemorySubscriptionBus, ServerEvent
from mcp.shared.subscriptions import event_from_wire, event_to_notification

from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log
from mcp_sessions.manager import SessionManager
from mcp_sessions.messages.mailbox import Mailbox, Message
from mcp_sessions.settings import SettingsByName, load_settings
from mcp_sessions.shared_instance import Shared

_KIND = "server_event"
Listener = Callable[[ServerEvent], None]


class SqlSubscriptionBus:
    """The ``SubscriptionBus`` of all workers on one database.

    ::

        bus = SqlSubscriptionBus(database_url="postgresql://app@db/app")
        server = MCPServer("notes", subscriptions=bus)

    It opens its database at its first use, since servers are made at import, and in the event loop of that use.

    Args:
        sessions: an open manager to use instead of one of its own.
        database_url: where the workers meet; by default from ``MCP_SESSIONS_DATABASE_URL``.
        **settings: any field of ``Settings``, by name.

    Raises:
        ConfigurationError: a setting makes no sense; it is named.
    """

    def __init__(
        self,
        sessions: SessionManager | None = None,
        *,
        database_url: str | None = None,
        **settings: Unpack[SettingsByName],
    ) -> None:
        self._sessions = sessions
        self._settings = load_settings(database_url=database_url, **settings) if sessions is None else sessions.settings
        self._here = InMemorySubscriptionBus()
        self._listening = 0
        self._mailbox: Shared[Mailbox] | None = None

    async def publish(self, event: ServerEvent) -> None:
        """Deliver an event to the listeners of this process, and leave it for those of the others.

        Where the database is away, the others do not hear of it: that is logged, and no error of whoever publishes.
        """
        await self._here.publish(event)
        body = event_to_notification(event, {}).model_dump_json(by_alias=True, exclude_none=True)
        try:
            await (await self._opened().opened()).send(_KIND, body)
        except McpSessionsError as error:
            log(
                logging.ERROR,
                "event_not_published",
                "other workers did not hear of an event: %(error)s",
                error=str(error),
            )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have a listener called for what any worker publishes from now on; return what ends that."""
        unsubscribe = self._here.subscribe(listener)
        mailbox = self._opened()
        waiting = asyncio.get_running_loop().create_task(_wait(mailbox), name="mcp-sessions subscription")

        def end() -> None:
            unsubscribe()
            waiting.cancel()

        return end

    async def aclose(self) -> None:
        """Close what was opened; the next use opens it again."""
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None and not mailbox.is_over:
            await mailbox.close()

    def _opened(self) -> Shared[Mailbox]:
        if self._mailbox is None or self._mailbox.is_over:
            self._mailbox = Shared(self._open(), self._settings)
        return self._mailbox

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Mailbox]:
        opening: AbstractAsyncContextManager[SessionManager] = (
            SessionManager.open_with(self._settings, scheduled_cleanup=False)
            if self._sessions is None
            else nullcontext(self._sessions)
        )
        async with opening as sessions, sessions.open_mailbox() as mailbox:
            mailbox.on(_KIND, self._receive)
            yield mailbox

    def _receive(self, message: Message) -> None:
        notification = json.loads(message.body)
        event = event_from_wire(notification["method"], notification.get("params"))
        if event is not None:
            asyncio.get_running_loop().create_task(self._here.publish(event))


async def _wait(mailbox: Shared[Mailbox]) -> None:
    """Look for events as long as somebody listens."""
    with (await mailbox.opened()).waiting():
        await asyncio.Event().wait()
