"""``/healthz`` and ``/readyz``: what a supervisor and a load balancer ask, in front of the app and of authentication.

The first says that the process lives, the second that a request would be served: the worker has started and is not
draining, and the database answers, at a schema revision that this version can work with. One look at the database is
under way at a time, and what it found holds for a second: however many ask, requests keep their connections. An
answer tells in a word which check failed, and nothing else; the log tells the rest, once for each change.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from http import HTTPStatus

from mcp_sessions.asgi.in_flight import ShuttingDownError
from mcp_sessions.asgi.initialize import MisplacedError
from mcp_sessions.asgi.layer import SessionLayer
from mcp_sessions.asgi.placement import takes_path
from mcp_sessions.asgi.responses import Response
from mcp_sessions.asgi.types import App, Message, Receive, Scope, Send
from mcp_sessions.errors import ConfigurationError, McpSessionsError, SchemaRevisionError
from mcp_sessions.logs import log
from mcp_sessions.manager import SessionManager

ALIVE, READY = "/healthz", "/readyz"
_LOOK_HOLDS = 1.0
"""Seconds for which one look at the database answers everybody who asks."""
_PATIENCE = 2.0
"""Seconds that an answer takes at most; a look that takes longer goes on, and is the next one's, too."""


def takes_probes(app: App) -> bool | None:
    """Tell whether an app routes one of the two paths itself; None where nobody can see that."""
    answers = [takes_path(app, path) for path in (ALIVE, READY)]
    return True if True in answers else None if None in answers else False


def require_free(app: App) -> None:
    """Raise ``ConfigurationError`` where an app routes one of the two paths itself."""
    if takes_probes(app):
        raise ConfigurationError(
            f"health: the app has a route of its own for {ALIVE} or {READY}: take it away, or leave out health=True"
        )


class Health:
    """An app with the two paths in front of it, which answer GET and HEAD."""

    def __init__(self, app: App, layer: SessionLayer) -> None:
        self._app = app
        self._readiness = Readiness(layer.serving_sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        path = _path(scope) if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} else None
        if path == ALIVE:
            await _answer(None, scope, send)
        elif path == READY:
            await _answer(await self._readiness.failed(), scope, send)
        else:
            await self._app(scope, receive, send)


class Readiness:
    """Whether this worker would serve a request now; ``serving_sessions`` raises where it takes none."""

    def __init__(self, serving_sessions: Callable[[], SessionManager]) -> None:
        self._serving_sessions = serving_sessions
        self._look: asyncio.Task[str | None] | None = None
        self._holds_until = 0.0
        self._said: str | None = None

    async def failed(self) -> str | None:
        """Return the check that fails, in a word; None where all pass."""
        try:
            sessions = self._serving_sessions()
        except ShuttingDownError:
            return "draining"
        except MisplacedError:
            return "not started"
        loop = asyncio.get_running_loop()
        if self._look is None or (self._look.done() and loop.time() >= self._holds_until):
            self._look = loop.create_task(self._looked(sessions.check_ready), context=Context())
        done, _ = await asyncio.wait([self._look], timeout=_PATIENCE)
        if not done:
            self._say("database", f"no answer within {_PATIENCE:g} s")
            return "database"
        return self._look.result()

    async def _looked(self, check: Callable[[], Awaitable[None]]) -> str | None:
        failed, why = None, ""
        try:
            await check()
        except SchemaRevisionError as error:
            failed, why = "schema revision", str(error)
        except McpSessionsError as error:
            failed, why = "database", str(error)
        self._holds_until = asyncio.get_running_loop().time() + _LOOK_HOLDS
        self._say(failed, why)
        return failed

    def _say(self, failed: str | None, why: str) -> None:
        if failed == self._said:
            return
        self._said = failed
        if failed is None:
            log(logging.INFO, "ready", "mcp-sessions is ready again")
        else:
            log(
                logging.WARNING,
                "not_ready",
                "mcp-sessions is not ready (%(check)s): %(error)s",
                check=failed,
                error=why,
            )


def _path(scope: Scope) -> str:
    """Return the path within this app, which a host may have mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _response(failed: str | None) -> Response:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if failed is None:
        return Response(HTTPStatus.OK, b'{"status":"ok"}', headers)
    body = b'{"status":"unavailable","failed":"%b"}' % failed.encode()
    return Response(HTTPStatus.SERVICE_UNAVAILABLE, body, headers)


async def _answer(failed: str | None, scope: Scope, send: Send) -> None:
    async def without_body(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    await _response(failed)(without_body if scope["method"] == "HEAD" else send)
