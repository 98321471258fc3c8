"""What one worker serves requests with: the app, the sessions in the database, and the app sessions that it holds."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from mcp_sessions.asgi.app_requests import ReplyTooLargeError
from mcp_sessions.asgi.app_sessions import AppSession, AppSessions
from mcp_sessions.asgi.body import Room
from mcp_sessions.asgi.client_settings import SessionSettings
from mcp_sessions.asgi.owner import OwnerOf
from mcp_sessions.asgi.peer_messages import PeerMessages
from mcp_sessions.asgi.restore import RestoreFailedError, RestoreRefusedError, close, is_held, restore
from mcp_sessions.asgi.restore_queue import RestoreQueue
from mcp_sessions.asgi.server_requests import ServerRequests
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.types import App, Scope
from mcp_sessions.instruments import Instruments
from mcp_sessions.logs import log, log_session
from mcp_sessions.manager import SessionManager
from mcp_sessions.messages.mailbox import Mailbox
from mcp_sessions.records.sessions import Session

_RESTORES_AT_ONCE = 32
_LONGEST_TURN = 1.0
"""Seconds after which a restore counts as slow: about a thousand times what one takes that waits for nobody else."""


class SessionGoneError(Exception):
    """There is nothing to restore: the session ended meanwhile, or it was not opened over HTTP."""


@dataclass(eq=False)
class ServingContext:
    """What every request on one worker is served with."""

    app: App
    sessions: SessionManager
    mailbox: Mailbox
    owner_of: OwnerOf
    settings: HttpSettings
    app_sessions: AppSessions = field(init=False)
    peer_messages: PeerMessages = field(init=False)
    session_settings: SessionSettings = field(init=False)
    room: Room = field(init=False)
    touch_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        # Settings build their timeouts anew each time, and this is asked for at every request.
        self.touch_seconds = self.sessions.settings.timeouts.touch_interval.total_seconds()
        self.room = Room(self.settings.max_held_bodies)
        self._restore_queue = RestoreQueue(_RESTORES_AT_ONCE, longest=_LONGEST_TURN)
        self.app_sessions = AppSessions(self.close, most=self.settings.max_live_sessions)
        self.peer_messages = PeerMessages(self.app, self.mailbox, self.app_sessions, self.settings)
        self.session_settings = SessionSettings(self.app, self.sessions, self.mailbox, self.app_sessions, self.settings)

    def new_requests(self) -> ServerRequests:
        """Return what keeps the server requests of a new app session."""
        return ServerRequests(self.mailbox.worker_id)

    async def restore(self, session: Session, scope: Scope) -> AppSession:
        """Restore the app session of a session from its recorded handshake within ``restore_timeout``, from now on.

        Raises:
            SessionGoneError: there is no handshake any more.
            RestoreFailedError: the app did not take it, or not in time.
            RestoreRefusedError: the app will never take it.

        """
        with _told(self.sessions.instruments):
            app_session = await self._restored(session, scope)
        log_session("session_restored", "session restored on this worker", session.digest, session.owner)
        return app_session

    async def _restored(self, session: Session, scope: Scope) -> AppSession:
        async with self._in_time("the session was not restored"), self._restore_queue.turn(session.owner):
            handshake = await self.sessions.get_handshake(session.digest)
            if handshake is None:
                raise SessionGoneError
            limit = self.settings.max_remembered_body
            return await restore(
                self.app, handshake, scope, self.new_requests(), self.app_sessions.abandon, limit=limit
            )

    async def is_held(self, app_session: AppSession, scope: Scope) -> bool:
        """Tell whether the app still holds an app session.

        Raises:
            RestoreFailedError: the app does not say so in time.

        """
        async with self._in_time("the app did not answer"):
            return await is_held(self.app, app_session, scope, limit=self.settings.max_remembered_body)

    async def keep_to_settings(self, session: Session, app_session: AppSession, scope: Scope) -> None:
        """Bring an app session to what its client has set, unless it is there, under the scope of its request.

        Raises:
            RestoreFailedError: the app does not answer in time.

        """
        if session.settings_version != app_session.settings.version:
            app_session.scope = scope  # an earlier one may name a principal whose token has expired
            async with self._in_time("what the client has set was not restored"):
                await self.session_settings.bring(session.digest, app_session)

    @contextlib.asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        patience = self.settings.restore_timeout
        try:
            async with asyncio.timeout(patience.total_seconds()):
                yield
        except TimeoutError:
            raise RestoreFailedError(f"{what} within {patience}") from None
        except ReplyTooLargeError:
            limit = self.settings.max_remembered_body
            raise RestoreFailedError(f"an answer of the app's is longer than {limit} bytes") from None

    async def close(self, app_session: AppSession) -> None:
        """End an app session, whatever the app says to it."""
        try:
            async with asyncio.timeout(self.settings.restore_timeout.total_seconds()):
                await self.session_settings.listening.let_go(app_session)
                await close(self.app, app_session, limit=self.settings.max_remembered_body)
        except Exception as error:  # noqa: BLE001  # any app's: its own idle timeout is left to clear up
            log(logging.WARNING, "close_failed", "the app did not end its own session: %(error)s", error=repr(error))


_OUTCOMES: dict[type[BaseException], str] = {
    SessionGoneError: "gone",
    RestoreRefusedError: "refused",
    RestoreFailedError: "failed",
    asyncio.CancelledError: "cancelled",
}


@contextlib.contextmanager
def _told(instruments: Instruments) -> Iterator[None]:
    """Tell how a restore went, and how long it took."""
    began, outcome = time.perf_counter(), "restored"
    try:
        yield
    except BaseException as error:
        outcome = _OUTCOMES.get(type(error), "unavailable")
        raise
    finally:
        instruments.session_restored(outcome, time.perf_counter() - began)
