"""Where the layer stands: around the app's MCP endpoint, where the app's own router has decided that a request is its.

A router matches by patterns, mounts, root paths and converters. Whatever decided beside it, by the text of a path say,
would decide otherwise some time, and let past what reaches the endpoint. So the layer compares no path of a request:
it replaces what the endpoint's route calls, behind all middleware and so behind the authentication that the
SDK and FastMCP put into their apps. Routes are looked for through Starlette's own: in mounted apps, too, and in what
middleware keeps in ``app``. An app whose routes nobody can see is the endpoint as a whole.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from mcp_sessions.asgi.types import App, Receive, Scope, Send
from mcp_sessions.errors import ConfigurationError

try:
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
except ImportError:  # Starlette comes with the SDKs; other apps do without
    Starlette = None  # type: ignore[assignment,misc]  # tested before every use

DEFAULT_PATH = "/mcp"
_SESSION_METHODS = {"GET", "POST", "DELETE"}
_NAMED = 5  # paths in an error
_DEEPEST = 100  # wrappers around an app; one that wraps itself must not hold up its host


class Layer:
    """What makes sessions durable already, and is not wrapped again."""


class _Kind(Enum):
    """What an endpoint is known for."""

    SESSIONS = "sessions"
    DURABLE = "durable sessions"
    STATELESS = "no sessions"
    SSE = "the HTTP+SSE transport"


_REFUSALS = {
    _Kind.DURABLE: "the sessions of this app are durable already: serve it as it is, "
    "and have a host that mounts it pass lifespan=durable.lifespan",
    _Kind.STATELESS: "the app keeps no sessions, for it is made with stateless_http=True: "
    "make it without that, or serve it without DurableSessions",
    _Kind.SSE: "the app speaks the older HTTP+SSE transport, whose sessions last no longer than their connection: "
    "make it with streamable_http_app() of the SDK, or with http_app() of FastMCP",
}


@dataclass(frozen=True)
class Endpoint:
    """A path of an app, and the routes of one router that serve it: one for all methods, or several by method."""

    path: str
    """Its path within the app, as the router has it: ``/{tenant}/mcp`` is one, and so is that of a mounted app."""
    routes: tuple["Route | Mount | Host", ...]
    others: tuple["Route | Mount | Host", ...] = ()
    """Routes of other paths that call the same."""

    @property
    def takes_sessions(self) -> bool:
        """Whether it takes all methods that a client of streamable HTTP uses."""
        return all(self.takes(method) for method in _SESSION_METHODS)

    @property
    def kind(self) -> _Kind | None:
        """What it is known for, by public signs of the SDK's, of FastMCP's and of this package."""
        found = (_kind_of(each, route) for route in self.routes for each in _inside(route.app))
        return next((kind for kind in found if kind is not None), None)

    @property
    def called(self) -> frozenset[int]:
        """What the routes call in the end, by identity: the SDK's session manager, or the innermost app."""
        return frozenset(id(_called_by(route)) for route in self.routes)

    def takes(self, method: str) -> bool:
        """Tell whether it takes that method."""
        return any(_takes(route, method) for route in self.routes)

    def surround(self, around: Callable[[App], App]) -> None:
        """Put a layer around what the routes call."""
        layer = around(_by_method([(route, route.app) for route in self.routes]))
        for route in (*self.routes, *self.others):
            route.app = layer


def endpoint_of(app: App, path: str | None) -> Endpoint | None:
    """Return the app's MCP endpoint; None where that is the app as a whole.

    Without a path it is the only route that an SDK made for its sessions, else the only one that takes GET, POST and
    DELETE, else the one of these at ``/mcp``.

    Raises:
        ConfigurationError: the app has no such endpoint, or several, or one whose sessions cannot be made durable.

    """
    if any(isinstance(each, Layer) for each in _inside(app)):
        raise ConfigurationError(_REFUSALS[_Kind.DURABLE])
    router = _router_in(app)
    if router is None:
        if path is not None:
            raise ConfigurationError(
                f"path={path!r}: which requests a {type(app).__name__} takes for its MCP endpoint cannot be seen from "
                "outside; wrap the MCP endpoint itself, without a path, and mount that in its place"
            )
        return None
    if isinstance(router, Starlette) and router.middleware_stack is not None:
        raise ConfigurationError("wrap the app in DurableSessions before it serves its first request")
    endpoints = list(_endpoints(router.routes))
    endpoint = _only(endpoints) if path is None else _named(endpoints, path)
    if endpoint.kind in _REFUSALS:
        raise ConfigurationError(_REFUSALS[endpoint.kind])
    same = (each for each in endpoints if each is not endpoint and each.called & endpoint.called)
    return replace(endpoint, others=tuple(route for each in same for route in each.routes))


def takes_path(app: App, path: str) -> bool | None:
    """Tell whether one of the app's routes takes a path, by any method; None where nobody can see that."""
    if (router := _router_in(app)) is None:
        return None
    answers = [_route_takes_path(route, path) for route in router.routes]
    return True if True in answers else None if None in answers else False


def _route_takes_path(route: "BaseRoute", path: str) -> bool | None:
    if isinstance(route, Route):
        return route.path_regex.match(path) is not None
    if isinstance(route, Host):
        return takes_path(route.app, path)
    if isinstance(route, Mount):
        found = route.path_regex.match(path)
        return found is not None and takes_path(route.app, f"/{found['path']}")
    return False if isinstance(route, WebSocketRoute) else None


def _inside(app: Any) -> Iterator[Any]:
    """Yield an app and what it wraps, which middleware keeps in ``app``."""
    for _ in range(_DEEPEST):
        if app is None:
            return
        yield app
        app = getattr(app, "app", None)


def _router_in(app: App) -> "Starlette | Router | None":
    if Starlette is None:
        return None
    return next((each for each in _inside(app) if isinstance(each, Starlette | Router)), None)


def _endpoints(routes: Iterable["BaseRoute"], above: str = "") -> Iterator[Endpoint]:
    by_path: dict[str, list[Route | Mount | Host]] = {}
    for route in routes:
        if isinstance(route, Route):
            by_path.setdefault(above + route.path, []).append(route)
        elif isinstance(route, Mount | Host):
            path = above + (route.path if isinstance(route, Mount) else "")
            if (router := _router_in(route.app)) is None:
                by_path.setdefault(f"{path}/", []).append(route)
            else:
                yield from _endpoints(router.routes, path)
    for path, found in by_path.items():
        yield Endpoint(path, tuple(found))


def _only(endpoints: list[Endpoint]) -> Endpoint:
    known = [each for each in endpoints if each.kind in {_Kind.SESSIONS, _Kind.STATELESS}]
    with_sessions = [each for each in known if each.kind is _Kind.SESSIONS]
    if len({each.called for each in with_sessions}) > 1:
        raise _not_found("the app has several MCP endpoints", with_sessions)
    durable = [each for each in endpoints if each.kind is _Kind.DURABLE]
    found = (
        known or durable or [each for each in endpoints if each.takes_sessions and isinstance(each.routes[0], Route)]
    )
    if len(found) > 1:
        found = [each for each in found if each.path == DEFAULT_PATH] or found
    if len(found) != 1:
        raise _not_found("which route of the app is its MCP endpoint cannot be told", found or endpoints)
    return found[0]


def _named(endpoints: list[Endpoint], path: str) -> Endpoint:
    found = [each for each in endpoints if each.path == path]
    # Starlette redirects from the one spelling to the other.
    found = found or [each for each in endpoints if each.path.rstrip("/") == path.rstrip("/")]
    if len(found) != 1:
        several = "several routes of the app have" if found else "no route of the app has"
        raise _not_found(f"{several} the path {path!r}", endpoints)
    if not found[0].takes("POST") and found[0].kind is None:
        raise _not_found(f"the route {path!r} of the app takes no POST, so it is no MCP endpoint", endpoints)
    return found[0]


def _not_found(problem: str, endpoints: list[Endpoint]) -> ConfigurationError:
    possible = [each for each in endpoints if each.kind is not _Kind.SSE and each.takes("POST")]
    if any(each.kind is _Kind.SSE for each in endpoints) and not any(each.kind for each in possible):
        return ConfigurationError(_REFUSALS[_Kind.SSE])
    kinds = {each.kind for each in endpoints}
    if _Kind.DURABLE in kinds and _Kind.SESSIONS not in kinds:
        return ConfigurationError(_REFUSALS[_Kind.DURABLE])
    possible = [each for each in possible if each.kind is not _Kind.DURABLE]
    known_ones = [each for each in possible if each.kind is _Kind.SESSIONS]
    paths = sorted({each.path for each in known_ones or possible})[:_NAMED]
    if not paths:
        return ConfigurationError(f"{problem}: it has none that could be; wrap the app of an MCP server instead")
    examples = " or ".join(f"DurableSessions(app, path={path!r})" for path in paths)
    return ConfigurationError(f"{problem}: name its path, as in {examples}")


def _takes(route: "Route | Mount | Host", method: str) -> bool:
    return not isinstance(route, Route) or route.methods is None or method in route.methods


def _kind_of(part: Any, route: "Route | Mount | Host") -> _Kind | None:
    part = getattr(part, "__self__", part)  # what is mounted may be a method of the one that knows
    if isinstance(part, Layer):
        return _Kind.DURABLE
    if hasattr(type(part), "connect_sse"):
        return _Kind.SSE
    manager = _own(part, "session_manager", part)
    if manager is None:  # FastMCP makes it as it starts; without sessions, its route takes no GET
        return _Kind.SESSIONS if _takes(route, "GET") else _Kind.STATELESS
    stateless = _own(manager, "stateless", None)
    if not isinstance(stateless, bool):
        return None
    return _Kind.STATELESS if stateless else _Kind.SESSIONS


def _called_by(route: "Route | Mount | Host") -> Any:
    *_, innermost = _inside(getattr(route.app, "__self__", route.app))
    return _own(innermost, "session_manager", None) or innermost


def _own(part: Any, name: str, default: Any) -> Any:
    return getattr(part, "__dict__", {}).get(name, default)  # asks no property, which might do anything


def _by_method(routes: list[tuple["Route | Mount | Host", App]]) -> App:
    """Return what the routes called, as one app; the layer sends it requests of its own by other methods."""
    if len(routes) == 1:
        return routes[0][1]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = (called for route, called in routes if _takes(route, scope["method"]))
        await next(chosen, routes[0][1])(scope, receive, send)

    return app
