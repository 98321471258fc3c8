"""``DurableSessions``, the one line that makes the sessions of a streamable HTTP MCP app durable."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Unpack

from mcp_sessions.asgi.echoes import listen_for_echoes, unechoed
from mcp_sessions.asgi.health import Health, require_free, takes_probes
from mcp_sessions.asgi.layer import SessionLayer
from mcp_sessions.asgi.lifespan import LayeredLifespan, run_lifespan
from mcp_sessions.asgi.outside import Outside
from mcp_sessions.asgi.owner import OwnerOf, bearer_owner
from mcp_sessions.asgi.placement import DEFAULT_PATH, Layer, endpoint_of
from mcp_sessions.asgi.sdk_servers import Server, app_of
from mcp_sessions.asgi.settings import HttpSettings, HttpSettingsByName
from mcp_sessions.asgi.types import App, Receive, Scope, Send
from mcp_sessions.logs import be_heard
from mcp_sessions.manager import SessionManager
from mcp_sessions.settings import Settings, load


class DurableSessions(Layer):
    """An ASGI app: the wrapped MCP app, with its sessions in SQL.

    ::

        server = MCPServer("notes")
        app = DurableSessions(server, database_url="postgresql://…/app")

    What is wrapped may be a server of the ``mcp`` SDK or of FastMCP, the app that it makes, or a Starlette or FastAPI
    app in which that is mounted. There the sessions stand around the MCP endpoint, behind the authentication. Any other
    ASGI app is the endpoint as a whole, and authenticated in front of this one, or by ``owner``.

    Args:
        app: the MCP server, or its app, which has not served yet.
        database_url: where the sessions are; by default from ``MCP_SESSIONS_DATABASE_URL``.
        sessions: an open ``SessionManager`` to use instead of one of its own; it is left open.
        owner: tells the owner from the ASGI scope of an authenticated request, for authentication other than the
            bearer tokens of the SDKs. It must tell apart at least whom the app tells apart.
        **settings: any field of ``HttpSettings`` and of ``Settings``, by name.

    Attributes:
        settings: what the sessions work with.
        http_settings: what this layer works with.
        path: the path of the MCP endpoint within the app; ``/mcp`` where that is the app as a whole.

    Raises:
        ConfigurationError: a setting makes no sense, the app has served already, its MCP endpoint cannot be told, or
            its sessions cannot be made durable: it keeps none, or they are durable already; or ``health`` is set, and
            the app has routes of its own for these paths.

    """

    def __init__(
        self,
        app: App | Server,
        *,
        database_url: str | None = None,
        sessions: SessionManager | None = None,
        owner: OwnerOf | None = None,
        **settings: Unpack[HttpSettingsByName],
    ) -> None:
        named: dict[str, object] = {"database_url": database_url, **settings}
        own = HttpSettings.model_fields.keys() & named.keys()
        http = load(HttpSettings, {name: named.pop(name) for name in own})
        store = load(Settings, named)
        app = app_of(app, path=http.path)
        endpoint = endpoint_of(app, http.path)
        if http.health:
            require_free(app)
        self.settings = store if sessions is None else sessions.settings
        self.http_settings = http
        self.path = DEFAULT_PATH if endpoint is None else endpoint.path

        def open_sessions() -> AbstractAsyncContextManager[SessionManager]:
            if sessions is not None:
                return contextlib.nullcontext(sessions)
            return SessionManager.open_with(store)

        def around(inner: App) -> SessionLayer:
            self._layer = SessionLayer(inner, open_sessions, owner or bearer_owner(http.tenant_claim), http)
            return self._layer

        if endpoint is None:
            self._serve: App = around(app)
        else:
            endpoint.surround(around)
            self._serve = Outside(app)
        self._app = app
        if http.health:
            self._serve = Health(self._serve, self._layer)
        self._lifespan = LayeredLifespan(app, self._layer.running, self._layer.drain)
        listen_for_echoes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        be_heard()
        with unechoed():
            await (self._lifespan if scope["type"] == "lifespan" else self._serve)(scope, receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """Run the lifespan of this app, for a host app that mounts it: ``Starlette(…, lifespan=durable.lifespan)``."""
        async with run_lifespan(self):
            yield

    def answer_probes(self) -> bool:
        """Answer ``/healthz`` and ``/readyz``, unless ``health`` was set or the app might do so; tell who answers.

        True where they are answered here, False where they are left to the app.
        """
        if "health" in self.http_settings.model_fields_set:
            return self.http_settings.health
        if takes_probes(self._app) is not False:
            return False
        if not isinstance(self._serve, Health):
            self._serve = Health(self._serve, self._layer)
        return True

    async def drain(self) -> None:
        """Take no new work, end open streams, and wait for requests in flight, as a shutdown does."""
        await self._layer.drain()
