"""What would silently not be durable: refused when it is constructed, or else an error in the log at its first use."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastmcp import FastMCP
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount, Route

from mcp_sessions import ConfigurationError, DurableSessions, InvalidOwnerError, Owner, SessionManager
from mcp_sessions.asgi.lifespan import run_lifespan
from mcp_sessions.asgi.types import App, Receive, Scope, Send
from tests.support.asgi import browsing
from tests.support.mcp_client import INITIALIZE, RawClient, call
from tests.support.mcp_servers import APPS, ISSUER, TokenVerifier, fastmcp_app, sdk_app

SERVERS: dict[str, Callable[[], Any]] = {
    "MCPServer": lambda: MCPServer("notes"),
    "FastMCP": lambda: FastMCP("notes"),
    "Server": lambda: Server("notes"),
}


def hosting(*mounted: tuple[str, Starlette]) -> Starlette:
    """A host app that mounts others and runs their lifespans."""

    @contextlib.asynccontextmanager
    async def lifespan(_host: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for _, app in mounted:
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    return Starlette(routes=[Mount(path, app=app) for path, app in mounted], lifespan=lifespan)


def closed(app: App) -> App:
    """An app that nobody can look into."""

    async def closed(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return closed


@pytest.mark.parametrize("make", SERVERS.values(), ids=list(SERVERS))
@pytest.mark.parametrize("path", [None, "/here"])
async def test_a_server_is_wrapped_as_it_is(sqlite_url: str, make: Callable[[], Any], path: str | None) -> None:
    """A server of either SDK needs no app: its sessions are durable, at the path that is named."""
    app = DurableSessions(make(), path=path, database_url=sqlite_url)
    assert app.path == (path or "/mcp")
    async with app.lifespan(), browsing(app) as browser, SessionManager.open(sqlite_url) as manager:
        await RawClient(browser, path=app.path).initialize()
        assert await manager.get_active_session_count() == 1


@pytest.mark.parametrize("auth", [False, True])
@pytest.mark.parametrize("path", [None, "/mcp"])
@pytest.mark.parametrize("make", [sdk_app, fastmcp_app])
def test_an_app_without_sessions_is_refused(make: Any, path: str | None, *, auth: bool) -> None:
    """An app in stateless mode is refused, named or found, with or without authentication, mounted or not."""
    for app in (make(json=True, auth=auth, stateless_http=True), hosting(("/", make(json=True, stateless_http=True)))):
        with pytest.raises(ConfigurationError, match="stateless_http=True"):
            DurableSessions(app, path=path)


@pytest.mark.parametrize("path", [None, "/sse", "/messages"])
def test_an_sse_app_is_refused(path: str | None) -> None:
    """An app of the older HTTP+SSE transport is refused, saying how to make another one."""
    verified: dict[str, Any] = {
        "token_verifier": TokenVerifier(),
        "auth": AuthSettings(
            issuer_url=AnyHttpUrl(ISSUER),
            resource_server_url=AnyHttpUrl("https://notes.example/mcp"),
            required_scopes=["notes"],
            validate_token_resource=False,
        ),
    }
    apps = [MCPServer("notes").sse_app(), FastMCP("notes").http_app(transport="sse")]
    for app in [*apps, MCPServer("notes", **verified).sse_app()]:
        with pytest.raises(ConfigurationError, match=r"HTTP\+SSE"):
            DurableSessions(app, path=path)


TWICE: dict[str, Callable[[Any], Any]] = {
    "itself": DurableSessions,
    "in middleware": lambda app: CORSMiddleware(DurableSessions(app)),
    "the same app": lambda app: (DurableSessions(app), app)[1],
    "mounted": lambda app: Starlette(routes=[Mount("/notes", app=DurableSessions(app))]),
    "mounted in middleware": lambda app: Starlette(routes=[Mount("/", app=CORSMiddleware(DurableSessions(app)))]),
}


@pytest.mark.parametrize("wrap", TWICE.values(), ids=list(TWICE))
@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-json"])
def test_an_app_wrapped_twice_is_refused(wrap: Callable[[Any], Any], kind: str) -> None:
    """What has durable sessions already is refused, however deep they are."""
    for path in (None, "/notes/mcp"):
        with pytest.raises(ConfigurationError, match="durable already"):
            DurableSessions(wrap(APPS[kind]()), path=path)


@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-json"])
async def test_every_route_of_the_endpoint_is_governed(sqlite_url: str, kind: str) -> None:
    """An endpoint that a host has under several paths has its owner checked under each of them."""

    def nobody(_scope: Scope) -> Owner:
        raise InvalidOwnerError("nobody owns a session here")

    app: Any = APPS[kind]()
    (route,) = [each for each in app.routes if each.path == "/mcp"]
    routes = [Route("/mcp", route.app), Route("/mcp/", route.app), Route("/api", route.app), Mount("/deep", route.app)]
    host = DurableSessions(
        Starlette(routes=routes, lifespan=app.router.lifespan_context),
        owner=nobody,
        path="/mcp",
        database_url=sqlite_url,
    )
    async with host.lifespan(), browsing(host) as browser:
        for path in ("/mcp", "/mcp/", "/api", "/deep/"):
            assert (await RawClient(browser, path=path).post(INITIALIZE)).status == 403


def test_a_host_with_two_servers_names_the_one_that_is_meant() -> None:
    """Of two endpoints none is taken silently, and what is suggested are these two."""
    host = Starlette(routes=[Mount("/a", app=sdk_app(json=True)), *sdk_app(json=True).routes])
    with pytest.raises(ConfigurationError, match=r"several MCP endpoints: .*path='/a/mcp'\) or .*path='/mcp'\)"):
        DurableSessions(host)
    DurableSessions(host, path="/mcp")


class Alice(AuthenticationBackend):
    """Takes everybody for Alice, as no SDK does."""

    async def authenticate(self, _: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        """Tell who it is."""
        return AuthCredentials(["authenticated"]), SimpleUser("alice")


async def test_a_user_unknown_behind_the_layer_is_told_to_the_operator(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the app behind the layer authenticates in its own way, nobody gets a session, and the log says why."""
    app = sdk_app(json=True)
    (route,) = [each for each in app.routes if isinstance(each, Route) and each.path == "/mcp"]
    route.app = AuthenticationMiddleware(route.app, backend=Alice())
    durable = DurableSessions(app, database_url=sqlite_url)
    async with durable.lifespan(), browsing(durable) as browser:
        response = await RawClient(browser).post(INITIALIZE)
        assert (response.status, response.message["id"]) == (500, INITIALIZE["id"])
    assert "mcp-sessions answered 500: the app authenticates behind DurableSessions" in caplog.text


async def test_an_app_wrapped_twice_unseen_is_an_error_in_use(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where construction cannot look, the first request gets 500, the log says why, and no session is stored."""
    app = DurableSessions(closed(DurableSessions(sdk_app(json=True), database_url=sqlite_url)), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser, SessionManager.open(sqlite_url) as manager:
        assert (await RawClient(browser).post(INITIALIZE)).status == 500
        assert await manager.get_active_session_count() == 0
    assert "wrapped in DurableSessions twice" in caplog.text


@pytest.mark.parametrize("nonsense", [7, "notes:app", None, lambda: None, [sdk_app]])
def test_what_is_no_app_is_refused(nonsense: Any) -> None:
    """What can neither be called as an ASGI app nor makes one is refused at once."""
    with pytest.raises(ConfigurationError, match="neither an ASGI app nor an MCPServer or FastMCP"):
        DurableSessions(nonsense)


async def test_the_suggested_path_works(sqlite_url: str) -> None:
    """Of several endpoints in one host the error names each path; whichever is taken is durable, its redirect too."""

    def host() -> Starlette:
        return hosting(("/one", sdk_app(json=True, streamable_http_path="/")), ("/two", fastmcp_app(json=True)))

    with pytest.raises(ConfigurationError) as error:
        DurableSessions(host())
    assert "path='/one/'" in str(error.value)
    assert "path='/two/mcp'" in str(error.value)
    for path in ("/one/", "/one", "/two/mcp"):
        app = DurableSessions(host(), path=path, database_url=sqlite_url)
        async with app.lifespan(), browsing(app) as browser, SessionManager.open(sqlite_url) as manager:
            before = await manager.get_active_session_count()
            if path == "/one":
                moved = await RawClient(browser, path=path).post(INITIALIZE)
                assert (moved.status, moved.headers["location"]) == (307, "http://127.0.0.1:8000/one/")
            await RawClient(browser, path=app.path).initialize()
            assert await manager.get_active_session_count() == before + 1


async def test_a_session_outside_is_an_error_in_the_log(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A session id that another endpoint of the app gives is reported once, with the path and what to do."""
    other = sdk_app(json=True)
    host = hosting(("/one", sdk_app(json=True)), ("/two", other))
    host.router.routes[1] = Mount("/two", app=closed(other))
    app = DurableSessions(host, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        await RawClient(browser, path="/one/mcp").initialize()
        assert "not durable" not in caplog.text
        for _ in range(2):
            await RawClient(browser, path="/two/mcp").initialize()
    (told,) = [record for record in caplog.records if getattr(record, "operation", "") == "not_durable"]
    assert told.levelname == "ERROR"
    assert "'/two/mcp' is not durable" in told.getMessage()
    assert "wrap what is mounted there in DurableSessions" in told.getMessage()


@pytest.mark.parametrize("version", ["v999.0.0", "2030-01-01", "garbage", "2025-12-24"])
@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-sse"])
async def test_a_version_that_nobody_knows_is_the_apps_to_answer(sqlite_url: str, kind: str, version: str) -> None:
    """What the bare app says to a version that nobody knows, the client hears word for word."""
    bare, durable = APPS[kind](), DurableSessions(APPS[kind](), database_url=sqlite_url)
    discover = {"jsonrpc": "2.0", "id": 7, "method": "server/discover", "params": {}}
    async with (
        run_lifespan(bare),
        durable.lifespan(),
        browsing(bare) as without,
        browsing(durable) as within,
        SessionManager.open(sqlite_url) as manager,
    ):
        for message in (discover, INITIALIZE, call("add", a=1, b=2)):
            said = await RawClient(without).post(message, ("mcp-protocol-version", version))
            heard = await RawClient(within).post(message, ("mcp-protocol-version", version))
            assert said.status == heard.status == 400
            assert said.body == heard.body
            assert heard.message["id"] == message["id"]
        assert await manager.get_active_session_count() == 0


async def test_an_app_that_opens_a_session_unasked_gives_no_id_away(sqlite_url: str) -> None:
    """An id of the app's in an answer that can be of no session is kept from the client, and its session ended."""
    ended: list[bytes] = []

    async def eager(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await receive()
        ended.extend(value for name, value in scope["headers"] if name == b"mcp-session-id")
        headers = [(b"Mcp-Session-Id", b"of-the-app"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    app = DurableSessions(eager, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        for version in ("v999.0.0", "2026-07-28"):
            answer = await RawClient(browser).post(INITIALIZE, ("mcp-protocol-version", version))
            assert (answer.status, answer.body) == (200, b"{}")
            assert "mcp-session-id" not in answer.headers
        assert ended == [b"of-the-app"] * 2
        headers = {"accept": "application/json", "content-type": "text/plain"}
        adding = call("add")
        refused = await browser.request("POST", headers=headers, body=json.dumps(adding).encode())
        assert (refused.status, refused.message["id"]) == (400, adding["id"])
        assert "mcp-session-id" not in refused.headers


@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-json"])
async def test_the_app_says_what_is_wrong_with_a_body(sqlite_url: str, kind: str) -> None:
    """A wrong content type, or what is no JSON-RPC, without a session id gets the app's own, more exact answer."""
    bare, durable = APPS[kind](), DurableSessions(APPS[kind](), database_url=sqlite_url)
    wrong = [("text/plain", b'{"jsonrpc": "2.0"}'), ("application/json", b"{"), ("application/json", b'{"a": 1}')]
    async with run_lifespan(bare), durable.lifespan(), browsing(bare) as without, browsing(durable) as within:
        for content_type, body in wrong:
            headers = {"accept": "application/json, text/event-stream", "content-type": content_type}
            said = await without.request("POST", headers=headers, body=body)
            heard = await within.request("POST", headers=headers, body=body)
            assert (said.status, said.body) == (heard.status, heard.body)
            assert heard.status in {400, 415}


@pytest.mark.parametrize("request_id", [1, 0, -7, "a", "ü\u2028\0", "x" * 200, 10**200])
async def test_errors_carry_the_id_of_the_request(sqlite_url: str, request_id: Any) -> None:
    """Whatever the layer refuses, it names the request by its id, alike for each session that is not the client's."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        ended = RawClient(browser)
        await ended.initialize()
        await ended.send("DELETE")
        message = {**call("add", a=1, b=2), "id": request_id}
        answers = [await ended.using(session_id=each).post(message) for each in (ended.session_id, "unknown")]
        assert answers[0] == answers[1]
        assert answers[0].status == 404
        long = {**message, "filling": "x" * 70_000}
        untold = await RawClient(browser).post({**message, "filling": "x" * 1_100_000}, ("content-length", ""))
        assert (untold.status, untold.message["id"]) == (413, request_id)
        for each in (answers[0], await RawClient(browser).post(message), await RawClient(browser).post(long)):
            assert each.message["id"] == request_id


@pytest.mark.parametrize("request_id", [None, True, 1.5, "x" * 300, 10**300, {"a": 1}, [1]], ids=str)
async def test_errors_repeat_nothing_that_is_no_id(sqlite_url: str, request_id: Any) -> None:
    """What is no JSON-RPC id, or too long for one, is not repeated."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        message = {**call("add", a=1, b=2), "id": request_id}
        answer = await RawClient(browser).using(session_id="unknown").post(message)
        assert (answer.status, answer.message["id"]) == (404, None)


async def test_an_error_does_not_wait_for_a_body_that_does_not_come(sqlite_url: str) -> None:
    """A client that says more than it sends gets its 404 all the same, without an id."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    more = ("content-length", "100")
    async with app.lifespan(), browsing(app) as browser:
        answer = await RawClient(browser).using(session_id="unknown").post(call("add"), more)
        assert answer.status == 404


async def test_route_that_takes_no_post_is_no_endpoint() -> None:
    """A route for other methods than POST is refused as the endpoint."""

    async def page(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(ConfigurationError, match="takes no POST"):
        DurableSessions(Starlette(routes=[Route("/page", page, methods=["GET"])]), path="/page")
