"""Where the layer stands, and which requests are its business.

The SDK and FastMCP return Starlette apps that authenticate inside. There the layer takes the innermost place among the
app's middleware, behind the authentication and before the routes, through Starlette's public list of middleware; the
verified principal is in the scope by then. In front of any other ASGI app it simply stands outside.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mcp_sessions.asgi.types import App, Scope
from mcp_sessions.errors import ConfigurationError

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Match, Route
except ImportError:  # Starlette comes with the SDKs; other apps do without
    Starlette = None  # type: ignore[assignment,misc]  # tested before every use

DEFAULT_PATH = "/mcp"
_SESSION_METHODS = {"GET", "POST", "DELETE"}

IsEndpoint = Callable[[Scope], bool]


def place(app: App, around: Callable[[App], App]) -> App:
    """Put a layer into an app or in front of it, and return what the server is to call.

    Raises:
        ConfigurationError: the app has been started already, so it is too late.

    """
    if Starlette is None or not isinstance(app, Starlette):
        return around(app)
    if app.middleware_stack is not None:
        raise ConfigurationError("wrap the app in DurableSessions before it serves its first request")
    app.user_middleware.append(Middleware(around))
    return app


@dataclass(frozen=True)
class Endpoint:
    """The MCP endpoint of an app."""

    path: str
    """Its path within the app."""
    holds: IsEndpoint
    """Tells the requests to it from others."""


def endpoint_of(app: App, path: str | None) -> Endpoint:
    """Return the app's MCP endpoint.

    Without a path, the endpoint of a Starlette app is its one route that takes GET, POST and DELETE, as only a
    streamable HTTP endpoint does; of another app it is ``/mcp``.

    Raises:
        ConfigurationError: no route or several could be the endpoint, so its path has to be named.

    """
    if path is None and Starlette is not None and isinstance(app, Starlette):
        route = _only_candidate(app)
        return Endpoint(route.path, lambda scope: route.matches(scope)[0] is not Match.NONE)
    wanted = path or DEFAULT_PATH
    return Endpoint(wanted, lambda scope: _path_within_app(scope) == wanted)


def _only_candidate(app: "Starlette") -> "Route":
    routes = [route for route in app.routes if isinstance(route, Route) and _takes_sessions(route)]
    if len(routes) > 1:
        routes = [route for route in routes if route.path == DEFAULT_PATH]
    if len(routes) != 1:
        raise ConfigurationError(
            "which route of the app is its MCP endpoint cannot be told: name its path, as in "
            f"DurableSessions(app, path={DEFAULT_PATH!r})"
        )
    return routes[0]


def _takes_sessions(route: "Route") -> bool:
    return route.methods is None or route.methods >= _SESSION_METHODS


def _path_within_app(scope: Scope) -> str:
    path: str = scope["path"]
    within = path.removeprefix(scope.get("root_path", ""))
    return path if within and not within.startswith("/") else within  # "/app" is no part of "/application"
