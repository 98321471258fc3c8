"""What a client sets for its session holds on every worker: the level of log messages, the resources it follows.

Apps keep it in the memory of one process. So a request that sets something is recorded once the app has accepted it,
before the client hears of it, and replayed into the app sessions of other workers: before the next request there, which
finds another version of the settings in the session than the app session was brought to, and at once where something is
in flight. A restore begins without settings, and comes to them in the same way.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

from mcp_sessions.asgi.app_requests import Reply, ask_on
from mcp_sessions.asgi.app_sessions import AppSession, AppSessions
from mcp_sessions.asgi.body import text_of
from mcp_sessions.asgi.headers import first_value
from mcp_sessions.asgi.in_flight import CutError
from mcp_sessions.asgi.jsonrpc import ResponseFinder
from mcp_sessions.asgi.listening import LISTENER, Listening
from mcp_sessions.asgi.responses import NOT_FOUND, TOO_MUCH_SET
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.types import App
from mcp_sessions.client_settings import ClientSettings, Values
from mcp_sessions.digests import short_digest
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.logs import log
from mcp_sessions.manager import SessionManager
from mcp_sessions.messages.mailbox import Mailbox, Message

SET_LEVEL = "logging/setLevel"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"

METHODS_THAT_SET = frozenset({SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE})

_KIND = "client_settings"
_MOST = 1000
_MOST_CHARACTERS = 256 * 1024


class Setting(NamedTuple):
    """A request of the client's that sets something: its id, the name of what it sets, and to which parameters.

    ``params`` is JSON text, or None where the request takes back what is set under that name.
    """

    request_id: Any
    name: str
    params: str | None


def settings_in(content: Any) -> list[Setting]:
    """Return what a client's message or batch sets, in its order.

    Raises:
        BodyTooLargeError: it is nested too deeply.

    """
    if content is None:
        return []
    parts = content if isinstance(content, list) else [content]
    return [setting for part in parts if isinstance(part, dict) and (setting := _setting(part))]


def _setting(request: dict[str, Any]) -> Setting | None:
    method, params, request_id = request.get("method"), request.get("params"), request.get("id")
    if request_id is None or not isinstance(params, dict):
        return None
    if not isinstance(method, str) or method not in METHODS_THAT_SET:
        return None
    kept = text_of({name: value for name, value in params.items() if name != "_meta"})
    if method == SET_LEVEL:
        return Setting(request_id, SET_LEVEL, kept)
    if isinstance(uri := params.get("uri"), str):
        return Setting(request_id, f"{SUBSCRIBE} {uri}", kept if method == SUBSCRIBE else None)
    return None


class SessionSettings:
    """What clients have set, between the database and the app sessions of this worker."""

    def __init__(
        self, app: App, sessions: SessionManager, mailbox: Mailbox, app_sessions: AppSessions, settings: HttpSettings
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._mailbox = mailbox
        self._app_sessions = app_sessions
        self._limit = settings.max_remembered_body
        self._patience = settings.restore_timeout.total_seconds()
        self._tasks: set[asyncio.Task[None]] = set()
        self.listening = Listening(app, mailbox, app_sessions, self._change, settings)
        mailbox.on(_KIND, self._receive)

    async def record(self, digest: bytes, app_session: AppSession, accepted: Sequence[Setting]) -> None:
        """Record what the app has accepted on an app session; from the return on, each worker keeps to it.

        Raises:
            CutError: the session has ended, or its client has set too much.
            DatabaseError: the database failed; whether it was recorded is not known.
        """
        changed = partial(_changed, changes=accepted)
        await self._change(digest, changed)
        # Under the old version: somebody else may have changed something meanwhile, which the next request finds.
        before = app_session.settings
        app_session.settings = ClientSettings(before.version, changed(before.values))

    async def bring(self, digest: bytes, app_session: AppSession) -> None:
        """Bring an app session to what its client has set.

        Raises:
            TimeoutError: the app does not answer within ``restore_timeout``.
            ReplyTooLargeError: a reply of the app's is too long.
            DatabaseError: the database failed.
        """
        async with asyncio.timeout(self._patience), app_session.setting:
            wanted = await self._sessions.get_client_settings(digest)
            if wanted is None or wanted.version == app_session.settings.version:
                return
            await self.listening.bring(digest, app_session, wanted.values.get(LISTENER))
            for method, params in _steps(app_session.settings.values, wanted.values):
                await self._replay(digest, app_session, method, params)
            app_session.settings = wanted

    async def aclose(self) -> None:
        """Stop what is still being replayed into the app, which is about to shut down."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.listening.aclose()

    async def _change(self, digest: bytes, change: Callable[[Values], Values]) -> None:
        if await self._sessions.change_client_settings(digest, change) is None:
            raise CutError(NOT_FOUND)
        try:
            await self._mailbox.send(_KIND, "", session_digest=digest)
        except McpSessionsError as error:
            _warn(digest, "settings_not_announced", error)

    async def _replay(self, digest: bytes, app_session: AppSession, method: str, params: str) -> None:
        request_id = f"settings-{secrets.token_hex(8)}"  # none that the client has in flight
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": json.loads(params)}
        with app_session.used():
            reply = await ask_on(self._app, app_session, json.dumps(body).encode(), limit=self._limit)
        if not _is_success(reply, request_id):
            _warn(digest, "setting_not_kept", f"the app refused {method}, which it had accepted before")

    def _receive(self, message: Message) -> None:
        digest = message.session_digest
        app_session = None if digest is None else self._app_sessions.peek(digest)
        if digest is not None and app_session is not None:
            task = asyncio.create_task(self._bring_at_once(digest, app_session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _bring_at_once(self, digest: bytes, app_session: AppSession) -> None:
        try:
            await self.bring(digest, app_session)
        except Exception as error:  # noqa: BLE001 - any app's; the next request tries again, and answers for it
            _warn(digest, "setting_not_kept", error)


def _changed(values: Values, changes: Sequence[Setting]) -> Values:
    changed = dict(values)
    for change in changes:
        if change.params is None:
            changed.pop(change.name, None)
        else:
            changed[change.name] = change.params
    size = sum(len(name) + len(params) for name, params in changed.items())
    if changed.keys() - values.keys() and (len(changed) > _MOST or size > _MOST_CHARACTERS):
        raise CutError(TOO_MUCH_SET)
    return changed


def _steps(now: Values, wanted: Values) -> Iterator[tuple[str, str]]:
    """Yield the requests that lead from what is set now to what is wanted."""
    for name, params in now.items():
        if name not in wanted and name.startswith(SUBSCRIBE):
            yield UNSUBSCRIBE, params
    for name, params in wanted.items():
        if now.get(name) != params and name != LISTENER:
            yield name.partition(" ")[0], params


def _is_success(reply: Reply, request_id: str) -> bool:
    if reply.status >= HTTPStatus.BAD_REQUEST:
        return False
    finder = ResponseFinder(request_id, first_value(reply.headers, b"content-type") or b"")
    response = finder.feed(reply.body, last=True)
    return response is not None and "result" in response


def _warn(digest: bytes, operation: str, error: Exception | str) -> None:
    message = "session %(session)s: what its client has set may not hold on every worker yet: %(error)s"
    text = str(error) or type(error).__name__
    log(logging.WARNING, operation, message, session=short_digest(digest), error=text)
