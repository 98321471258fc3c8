"""Giving this worker a live session that another one opened: the recorded handshake is replayed into the app.

The replay runs under the scope of the request that needs the session, so the app binds its new session to the same
principal; the owner was compared before. Only the handshake comes back. What else an app keeps in the memory of one
session (subscriptions, a log level) it does not find again, as after a restart.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from http import HTTPStatus

from mcp_sessions.asgi.exchange import ReplyTooLargeError, ask
from mcp_sessions.asgi.headers import first_value
from mcp_sessions.asgi.jsonrpc import ResponseFinder, initialize_in
from mcp_sessions.asgi.live import LiveSession
from mcp_sessions.asgi.types import App, Scope
from mcp_sessions.model import Handshake

_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


class RestoreFailedError(Exception):
    """The app did not take the recorded handshake; the durable session is untouched."""


async def restore(app: App, handshake: Handshake, scope: Scope, *, limit: int, patience: timedelta) -> LiveSession:
    """Return a new session of the app's that stands where the recorded one stood.

    Raises:
        RestoreFailedError: the app refused, failed, or took longer than ``patience``.

    """
    async with _bounded(limit, patience):
        return await _replay(app, handshake, scope, limit)


async def is_held(app: App, live: LiveSession, scope: Scope, *, limit: int, patience: timedelta) -> bool:
    """Ask the app, by a POST without a message, whether it still holds its own session.

    Raises:
        RestoreFailedError: the app failed, or took longer than ``patience``.

    """
    async with _bounded(limit, patience):
        reply = await ask(app, "POST", scope, limit=limit, session_id=live.app_session_id)
    return reply.status != HTTPStatus.NOT_FOUND


@contextlib.asynccontextmanager
async def _bounded(limit: int, patience: timedelta) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(patience.total_seconds()):
            yield
    except TimeoutError:
        raise RestoreFailedError(f"the app did not answer within {patience}") from None
    except ReplyTooLargeError:
        raise RestoreFailedError(f"the app's answer is longer than {limit} bytes") from None


async def _replay(app: App, handshake: Handshake, scope: Scope, limit: int) -> LiveSession:
    body = handshake.initialize.encode()
    request = initialize_in(body)
    reply = await ask(app, "POST", scope, limit=limit, body=body)
    if reply.status != HTTPStatus.OK or reply.session_id is None or request is None:
        raise RestoreFailedError(f"the app answered initialize with status {reply.status}")
    live = LiveSession(reply.session_id, scope)
    finder = ResponseFinder(request.request_id, first_value(reply.headers, b"content-type") or b"")
    response = finder.feed(reply.body, last=True)
    if response is None or "result" not in response:
        await close(app, live, limit=limit)
        raise RestoreFailedError("the app answered initialize with an error")
    reply = await ask(
        app,
        "POST",
        scope,
        limit=limit,
        session_id=live.app_session_id,
        protocol_version=handshake.protocol_version,
        body=_INITIALIZED,
    )
    if reply.status >= HTTPStatus.BAD_REQUEST:
        await close(app, live, limit=limit)
        raise RestoreFailedError(f"the app answered notifications/initialized with status {reply.status}")
    return live


async def close(app: App, live: LiveSession, *, limit: int) -> None:
    """End the app's own session; whether it still had one does not matter."""
    await ask(app, "DELETE", live.scope, limit=limit, session_id=live.app_session_id)
