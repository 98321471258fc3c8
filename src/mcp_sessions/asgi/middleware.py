"""``DurableSessions``, the one line that makes the sessions of a streamable HTTP MCP app durable."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp_sessions.asgi.layer import SessionLayer
from mcp_sessions.asgi.lifespan import run_lifespan
from mcp_sessions.asgi.owner import OwnerOf, bearer_owner
from mcp_sessions.asgi.placing import endpoint_of, place
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.types import App, Receive, Scope, Send
from mcp_sessions.manager import SessionManager
from mcp_sessions.settings import load, load_settings


class DurableSessions:
    """An ASGI app: the wrapped MCP app, with its sessions in SQL.

    ::

        server = MCPServer("notes")
        app = DurableSessions(server.streamable_http_app(), database_url="postgresql://…/app")

    The wrapped app may come from the ``mcp`` SDK, from FastMCP, or be any ASGI app that speaks streamable HTTP. In a
    Starlette app, as both SDKs return it, the sessions stand behind the app's own authentication; any other app is
    authenticated in front of this one, or by ``owner``.

    Args:
        app: the MCP app, which has not served yet.
        database_url: where the sessions are; by default from ``MCP_SESSIONS_DATABASE_URL``.
        sessions: an open ``SessionManager`` to use instead of one of its own; it is left open.
        owner: tells the owner from the ASGI scope of an authenticated request, for authentication other than the
            bearer tokens of the SDKs. It must tell apart at least whom the app tells apart.
        **settings: any field of ``HttpSettings`` and of ``Settings``, by name.

    Attributes:
        settings: what the sessions work with.
        http_settings: what this layer works with.
        path: the path of the MCP endpoint within the app.

    Raises:
        ConfigurationError: a setting makes no sense, the app has served already, or its MCP endpoint cannot be told.

    """

    def __init__(
        self,
        app: App,
        *,
        database_url: str | None = None,
        sessions: SessionManager | None = None,
        owner: OwnerOf | None = None,
        **settings: Any,
    ) -> None:
        own = HttpSettings.model_fields.keys() & settings.keys()
        http = load(HttpSettings, {name: settings.pop(name) for name in own})
        store = load_settings(database_url=database_url, **settings)
        endpoint = endpoint_of(app, http.path)
        self.settings = store if sessions is None else sessions.settings
        self.http_settings = http
        self.path = endpoint.path

        def open_sessions() -> AbstractAsyncContextManager[SessionManager]:
            if sessions is not None:
                return contextlib.nullcontext(sessions)
            return SessionManager.open_with(store)

        self._layer: SessionLayer | None = None

        def around(inner: App) -> App:
            tell_owner = owner or bearer_owner(http.tenant_claim)
            self._layer = SessionLayer(inner, open_sessions, tell_owner, endpoint.holds, http)
            return self._layer

        self._app = place(app, around)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """Run the lifespan of this app, for a host app that mounts it: ``Starlette(…, lifespan=durable.lifespan)``."""
        async with run_lifespan(self):
            yield

    async def drain(self) -> None:
        """Take no new work, end open streams, and wait for requests in flight, as a shutdown does."""
        if self._layer is not None:
            await self._layer.drain()
