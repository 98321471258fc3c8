"""What one worker has at hand while it serves: the app, the sessions in the database, and the live ones it holds."""

import asyncio
import logging
from dataclasses import dataclass, field

from mcp_sessions.asgi.body import Room
from mcp_sessions.asgi.live import LiveSession, LiveSessions
from mcp_sessions.asgi.owner import OwnerOf
from mcp_sessions.asgi.restore import close, is_held, restore
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.types import App, Scope
from mcp_sessions.logs import log, log_session
from mcp_sessions.manager import SessionManager
from mcp_sessions.model import Session

_RESTORES_AT_ONCE = 32  # all of a restarted worker's clients at once would time out together


class SessionGoneError(Exception):
    """There is nothing to restore: the session ended meanwhile, or it was not opened over HTTP."""


@dataclass(eq=False)
class Worker:
    """One worker's belongings."""

    app: App
    sessions: SessionManager
    owner_of: OwnerOf
    settings: HttpSettings
    live: LiveSessions = field(init=False)
    room: Room = field(init=False)
    touch_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        # Settings build their timeouts anew each time, and this is asked for at every request.
        self.touch_seconds = self.sessions.settings.timeouts.touch_interval.total_seconds()
        self._restoring = asyncio.Semaphore(_RESTORES_AT_ONCE)
        self.room = Room(self.settings.max_held_bodies)
        self.live = LiveSessions(self.close, most=self.settings.max_live_sessions)

    async def restore(self, session: Session, scope: Scope) -> LiveSession:
        """Restore a live session from its recorded handshake.

        Raises:
            SessionGoneError: there is no handshake any more.
            RestoreFailedError: the app did not take it.

        """
        async with self._restoring:
            handshake = await self.sessions.get_handshake(session.digest)
            if handshake is None:
                raise SessionGoneError
            live = await restore(
                self.app,
                handshake,
                scope,
                limit=self.settings.max_remembered_body,
                patience=self.settings.restore_timeout,
            )
        log_session("session_restored", "session restored on this worker", session.digest, session.owner)
        return live

    async def is_held(self, live: LiveSession, scope: Scope) -> bool:
        """Tell whether the app still holds its own session.

        Raises:
            RestoreFailedError: the app does not say so in time.

        """
        settings = self.settings
        return await is_held(
            self.app, live, scope, limit=settings.max_remembered_body, patience=settings.restore_timeout
        )

    async def close(self, live: LiveSession) -> None:
        """End the app's own session, whatever the app says to it."""
        try:
            async with asyncio.timeout(self.settings.restore_timeout.total_seconds()):
                await close(self.app, live, limit=self.settings.max_remembered_body)
        except Exception as error:  # noqa: BLE001  # any app's: its own idle timeout is left to clear up
            log(logging.WARNING, "close_failed", "the app did not end its own session: %(error)s", error=repr(error))
