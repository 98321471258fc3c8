"""Giving this worker an app session for what another one opened: the recorded handshake is replayed into the app.

The replay runs under the scope of the request that needs the session, so the app binds the app session to the same
principal; the owner was compared before. Only the handshake comes back here, and what the client has set after it (see
``client_settings``). What else an app keeps in the memory of one session it does not find again, as after a restart.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from mcp_sessions.asgi.app_requests import Reply, ask
from mcp_sessions.asgi.app_sessions import AppSession
from mcp_sessions.asgi.headers import first_value
from mcp_sessions.asgi.jsonrpc import ResponseFinder, initialize_in
from mcp_sessions.asgi.server_requests import ServerRequests
from mcp_sessions.asgi.types import App, Scope
from mcp_sessions.records.sessions import Handshake

_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
_MAY_PASS = {401, 403, 404, 405, 407, 408, 421, 423, 425, 429}  # about who asks, where or when, not about what
_FAILURES = {0, -32603}  # an app that failed: JSON-RPC 2.0, section 5.1; 0 is what the SDK makes of an exception
_SERVER_ERRORS = range(-32099, -32000 + 1)  # JSON-RPC 2.0, section 5.1


class RestoreFailedError(Exception):
    """The app did not take the recorded handshake, and may do so later; the durable session is untouched."""


class RestoreRefusedError(Exception):
    """The app refuses the recorded handshake, and will again: the session has no future."""


async def restore(
    app: App,
    handshake: Handshake,
    scope: Scope,
    requests: ServerRequests,
    abandon: Callable[[AppSession], None],
    *,
    limit: int,
) -> AppSession:
    """Return a new app session that stands where the recorded one stood.

    One that was opened and cannot be used is given to ``abandon``.

    Raises:
        RestoreFailedError: the app failed, or cannot say now.
        RestoreRefusedError: the app refuses this handshake.
        ReplyTooLargeError: a reply of the app's has more than ``limit`` bytes.

    """
    reply = await ask(app, "POST", scope, limit=limit, body=handshake.initialize.encode())
    _check_status("initialize", reply)
    if reply.status != HTTPStatus.OK or reply.session_id is None:
        raise RestoreFailedError(f"the app answered initialize with status {reply.status} and no session")
    app_session = AppSession(reply.session_id, scope, requests)
    try:
        _check_response(_response(handshake, reply))
        _check_status("notifications/initialized", await _initialized(app, app_session, handshake, limit))
    except BaseException:
        abandon(app_session)
        raise
    return app_session


async def is_held(app: App, app_session: AppSession, scope: Scope, *, limit: int) -> bool:
    """Ask the app, by a POST without a message, whether it still holds an app session.

    Raises:
        ReplyTooLargeError: the app's reply has more than ``limit`` bytes.

    """
    reply = await ask(app, "POST", scope, limit=limit, session_id=app_session.app_session_id)
    return reply.status != HTTPStatus.NOT_FOUND


def _response(handshake: Handshake, reply: Reply) -> dict[str, Any] | None:
    request = initialize_in(handshake.initialize.encode())
    if request is None:
        return None
    finder = ResponseFinder(request.request_id, first_value(reply.headers, b"content-type") or b"")
    return finder.feed(reply.body, last=True)


async def _initialized(app: App, app_session: AppSession, handshake: Handshake, limit: int) -> Reply:
    return await ask(
        app,
        "POST",
        app_session.scope,
        limit=limit,
        session_id=app_session.app_session_id,
        protocol_version=handshake.protocol_version,
        body=_INITIALIZED,
    )


def _check_status(what: str, reply: Reply) -> None:
    if reply.status < HTTPStatus.BAD_REQUEST:
        return
    is_final = reply.status < HTTPStatus.INTERNAL_SERVER_ERROR and reply.status not in _MAY_PASS
    raise (RestoreRefusedError if is_final else RestoreFailedError)(f"the app answered {what} with {reply.status}")


def _check_response(response: dict[str, Any] | None) -> None:
    if response is None:
        raise RestoreFailedError("the app did not answer initialize")
    if "result" in response:
        return
    error = response.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    is_final = isinstance(code, int) and code not in _FAILURES and code not in _SERVER_ERRORS
    raise (RestoreRefusedError if is_final else RestoreFailedError)(f"the app answered initialize with error {code}")


async def close(app: App, app_session: AppSession, *, limit: int) -> None:
    """End an app session; whether the app still had it does not matter."""
    await ask(app, "DELETE", app_session.scope, limit=limit, session_id=app_session.app_session_id)
