"""Whatever way the app's router sends to its MCP endpoint, it leads through the layer."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

from mcp_sessions import ConfigurationError, InvalidOwnerError, Owner, SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import run_lifespan
from mcp_sessions.asgi.types import App, Receive, Scope, Send
from tests.support.asgi import browsing
from tests.support.mcp_client import INITIALIZE, RawClient, call
from tests.support.mcp_servers import fastmcp_app, sdk_app

ADD = call("add", a=1, b=2)
PATHS = [
    "/mcp", "/mcp\n", "/mcp\r\n", "/mcp/", "/mcp//", "//mcp", "/mcp%0A", "/mcp%2F", "/%6dcp", "/MCP", "/mcp\0", "/mcp ",
    "/mcp\t", "/mcp\x0b", "/mcp\u2028", "/mcp\u00a0", "/mcp;a", "/./mcp", "/mcp/.", "/x/../mcp", "/mcp/mcp", "/mcp/\n",
    "/mcp/x", "/mc\u0440", "/mcp?x", "/acme/mcp", "/acme/mcp\n", "/\n/mcp", "/a%2Fb/mcp", "/acme/x/mcp", "/", "", "\n",
    "/mcp\n\n", "mcp", "/root/mcp", "/root/mcp\n", "/rootmcp", "/root", "/root/", "/root/root/mcp", "/api/mcp",
    "/root/mcp/", "/root/api/mcp", "/root/acme/mcp",
]  # fmt: skip


def mounting(path: str, app: Starlette, **options: Any) -> Starlette:
    """A host app that mounts another one and runs its lifespan."""

    @contextlib.asynccontextmanager
    async def lifespan(_host: Starlette) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            yield

    return Starlette(routes=[Mount(path, app=app, **options)], lifespan=lifespan)


def closed(app: App) -> App:
    """An app that nobody can look into."""

    async def closed(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return closed


def mounting_closed(path: str) -> Starlette:
    """A host app that mounts an MCP endpoint whose routes cannot be seen."""
    inner = sdk_app(json=True)
    host = mounting(path, inner)
    endpoint = next(route.app for route in inner.routes if isinstance(route, Route) and route.path == "/mcp")
    host.router.routes[:] = [Mount(path, app=closed(endpoint))]
    return host


HOSTS: dict[str, tuple[Callable[[], App], str | None]] = {
    "sdk": (lambda: sdk_app(json=True), None),
    "sdk, named": (lambda: sdk_app(json=True), "/mcp"),
    "fastmcp": (lambda: fastmcp_app(json=True), "/mcp"),
    "pattern": (lambda: sdk_app(json=True, streamable_http_path="/{tenant}/mcp"), None),
    "pattern, named": (lambda: fastmcp_app(json=True, path="/{tenant}/mcp"), "/{tenant}/mcp"),
    "mounted at the path": (lambda: mounting("/mcp", sdk_app(json=True, streamable_http_path="/")), "/mcp"),
    "mounted above": (lambda: mounting("/api", fastmcp_app(json=True)), None),
    "mounted by pattern": (lambda: mounting("/{tenant}", sdk_app(json=True)), "/{tenant}/mcp"),
    "mounted in middleware": (lambda: mounting("/", sdk_app(json=True), middleware=[Middleware(GZipMiddleware)]), None),
    "closed": (lambda: mounting_closed("/mcp"), "/mcp"),
    "in middleware": (lambda: CORSMiddleware(sdk_app(json=True)), "/mcp"),
    "by host": (lambda: by_host(sdk_app(json=True)), None),
}


def by_host(app: Starlette) -> Starlette:
    """A host app that hands over by the name of the host."""
    host = mounting("/", app)
    host.router.routes[:] = [Host("127.0.0.1", app=app)]
    return host


def below_root(app: App) -> App:
    """An app as a server with a root path calls it."""

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/root"} if scope["type"] == "http" else scope, receive, send)

    return below


@pytest.mark.parametrize(("make", "path"), HOSTS.values(), ids=list(HOSTS))
@pytest.mark.parametrize("rooted", [False, True])
async def test_no_spelling_of_the_path_passes_the_layer(
    sqlite_url: str, make: Callable[[], App], path: str | None, *, rooted: bool
) -> None:
    """At each path where the bare app opens a session, a durable one is opened, and at no other."""
    bare, durable = make(), DurableSessions(make(), path=path, database_url=sqlite_url)
    seen = below_root if rooted else (lambda app: app)
    opened = 0
    async with (
        run_lifespan(bare),
        durable.lifespan(),
        browsing(seen(bare)) as without,
        browsing(seen(durable)) as within,
        SessionManager.open(sqlite_url) as manager,
    ):
        for each in PATHS:
            plain = await RawClient(without, path=each).post(INITIALIZE)
            answer = await RawClient(within, path=each).post(INITIALIZE)
            assert (plain.status, "mcp-session-id" in plain.headers) == (
                answer.status,
                "mcp-session-id" in answer.headers,
            ), each
            opened += "mcp-session-id" in plain.headers
            assert await manager.get_active_session_count() == opened, each
    assert opened


class Spy:
    """An MCP endpoint that writes down what reaches it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Take whatever comes."""
        self.bodies.append((await receive())["body"])
        headers = [(b"mcp-session-id", b"of-the-app"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


VERSIONS = [None, "2025-11-25", "2026-07-28", "2027-01-01", "v999.0.0", "garbage", "", "2026-07-28, 2025-11-25"]
VERBS = ["POST", "GET", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "post", "NONSENSE"]


def of_nobody(_scope: Scope) -> Owner:
    """Know nobody."""
    raise InvalidOwnerError("nobody is known")


@pytest.mark.parametrize("version", VERSIONS)
async def test_nothing_reaches_the_endpoint_without_an_owner(sqlite_url: str, version: str | None) -> None:
    """On every verb, path and revision, with or without a session id, a principal that cannot be told gets 403."""
    bare, spy = Spy(), Spy()
    durable = DurableSessions(Starlette(routes=[Route("/mcp", spy)]), owner=of_nobody, database_url=sqlite_url)
    more = [] if version is None else [("mcp-protocol-version", version)]
    async with (
        durable.lifespan(),
        browsing(Starlette(routes=[Route("/mcp", bare)])) as without,
        browsing(durable) as within,
    ):
        for verb in VERBS:
            for path in PATHS:
                for session_id in (None, "unknown", "mal formed"):
                    reached = len(bare.bodies)
                    named = more if session_id is None else [*more, ("mcp-session-id", session_id)]
                    await RawClient(without, path=path).send(verb, ADD, *named)
                    answer = await RawClient(within, path=path).send(verb, ADD, *named)
                    assert (answer.status == 403) is (len(bare.bodies) > reached), (verb, path)
    assert not any(spy.bodies)
    assert any(bare.bodies)


@pytest.mark.parametrize("answer", [None, "alice", {"subject": "alice"}, True, ()], ids=repr)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_nonsense_of_an_owner_function_is_a_500(
    database_url: str, caplog: pytest.LogCaptureFixture, answer: object, *, asynchronous: bool
) -> None:
    """An owner function that returns no owner is trusted with nothing, on any verb or revision, and the log says so."""
    answers: list[Any] = [Owner(subject="alice")]

    async def later() -> Any:
        return answers[-1]

    app = DurableSessions(
        sdk_app(json=True),
        owner=lambda _scope: later() if asynchronous else answers[-1],
        database_url=database_url,
    )
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        answers.append(answer)
        for verb in ("DELETE", "POST", "GET", "OPTIONS"):
            for version in ("2025-11-25", "2026-07-28"):
                response = await client.send(verb, ADD, ("mcp-protocol-version", version))
                assert response.status == 500, (verb, version)
        answers.pop()
        assert await client.call("add", a=1, b=2) == "3"
    assert "the owner function returned" in caplog.text


async def test_endpoint_may_be_spread_over_routes_by_method(sqlite_url: str) -> None:
    """Of several routes with one path, each keeps its methods, and all stand behind the layer."""
    inner = sdk_app(json=True)
    endpoint = next(route.app for route in inner.routes if isinstance(route, Route) and route.path == "/mcp")

    class Part:
        def __init__(self, *methods: str) -> None:
            self.methods = methods

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["method"] in self.methods
            await endpoint(scope, receive, send)

    host = mounting("/", inner)
    host.router.routes[:] = [Route("/mcp", Part(verb), methods=[verb]) for verb in ("POST", "DELETE")]
    host.router.routes.append(Route("/mcp", Part("GET", "HEAD"), methods=["GET"]))
    app = DurableSessions(host, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser, SessionManager.open(sqlite_url) as manager:
        client = RawClient(browser)
        await client.initialize()
        assert await client.call("add", a=1, b=2) == "3"
        assert (await client.send("DELETE")).status == 204
        assert await manager.get_active_session_count() == 0


async def test_other_routes_pass_untouched(sqlite_url: str) -> None:
    """What is no request to the endpoint is the app's own, owner or not."""

    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    host = mounting("/mcp", sdk_app(json=True))
    host.router.routes.append(Route("/hello", hello, methods=["GET", "POST", "DELETE"]))
    app = DurableSessions(host, owner=of_nobody, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        for verb in ("GET", "POST", "DELETE"):
            assert (await browser.request(verb, "/hello")).body == b"hello"
    assert app.path == "/mcp/mcp"


MISNAMED: dict[str, tuple[Callable[[], App], str, str]] = {
    "misspelt": (lambda: sdk_app(json=True), "/mpc", "/mcp"),
    "filled in": (lambda: sdk_app(json=True, streamable_http_path="/{tenant}/mcp"), "/acme/mcp", "/{tenant}/mcp"),
    "without the mount": (lambda: mounting("/mcp", sdk_app(json=True, streamable_http_path="/")), "/", "/mcp/"),
    "closed": (lambda: mounting_closed("/mcp"), "/", "/mcp/"),
    "by host": (lambda: by_host(sdk_app(json=True)), "/127.0.0.1/mcp", "/mcp"),
}


@pytest.mark.parametrize(("make", "wrong", "right"), MISNAMED.values(), ids=list(MISNAMED))
def test_a_path_that_no_route_has_is_refused(make: Callable[[], App], wrong: str, right: str) -> None:
    """A path is one of the app's own, spelled as its route spells it; the error names those there are, which work."""
    with pytest.raises(ConfigurationError) as error:
        DurableSessions(make(), path=wrong)
    assert f"path={right!r}" in str(error.value)
    assert DurableSessions(make(), path=right).path == right


def test_path_of_an_app_that_shows_no_routes_is_refused(sqlite_url: str) -> None:
    """Where nobody can see how the app routes, no path is compared: the whole app is the endpoint, or it is refused."""
    with pytest.raises(ConfigurationError, match="wrap the MCP endpoint itself"):
        DurableSessions(closed(sdk_app(json=True)), path="/mcp", database_url=sqlite_url)
