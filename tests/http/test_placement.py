"""Where the layer stands in an app, and that it refuses to stand where it could not do its work."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount, Route

from mcp_sessions import ConfigurationError, Owner, SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import Receive, Scope, Send
from tests.support.asgi import browsing
from tests.support.mcp_client import INITIALIZE, RawClient
from tests.support.mcp_servers import fastmcp_app, sdk_app


@pytest.mark.parametrize("make", [sdk_app, fastmcp_app])
async def test_endpoint_is_found_wherever_it_is(sqlite_url: str, make: Any) -> None:
    """The MCP endpoint is found without being named, under the path that its author gave it."""
    option = "streamable_http_path" if make is sdk_app else "path"
    app = DurableSessions(make(json=True, **{option: "/api/{version}/tools"}), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser, path="/api/v1/tools")
        await client.initialize()
        assert await client.call("add", a=1, b=2) == "3"


def test_endpoint_that_cannot_be_told_must_be_named() -> None:
    """An app with no route or several that could be the endpoint is refused with what to write."""

    async def one(scope: Scope, receive: Receive, send: Send) -> None: ...

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    for routes in ([Route("/a", Endpoint()), Route("/b", Endpoint())], [Mount("/a", app=one)]):
        with pytest.raises(ConfigurationError, match="path='/a"):
            DurableSessions(Starlette(routes=routes))
    with pytest.raises(ConfigurationError, match="none that could be"):
        DurableSessions(Starlette())


async def test_app_that_has_served_is_refused(sqlite_url: str) -> None:
    """An app whose middleware stands already is refused."""
    inner = sdk_app(json=True)
    async with browsing(inner) as browser:
        await browser.request("GET", "/health")
    with pytest.raises(ConfigurationError, match="before it serves"):
        DurableSessions(inner, database_url=sqlite_url)


async def test_authentication_behind_the_layer_is_refused(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Around an app that authenticates deeper inside, no session is opened: it could not be bound to its user."""
    inner = sdk_app(json=True, auth=True)

    @contextlib.asynccontextmanager
    async def lifespan(_host: Starlette) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    host = Starlette(routes=[Mount("/", app=inner)], lifespan=lifespan)

    async def closed(scope: Scope, receive: Receive, send: Send) -> None:
        await host(scope, receive, send)

    app = DurableSessions(closed, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        response = await RawClient(browser, user="alice").post(INITIALIZE)
    assert response.status == 500
    assert "mcp-session-id" not in response.headers
    assert "authenticates behind DurableSessions" in caplog.text
    assert await stored(sqlite_url) == []


async def test_app_without_sessions_is_refused(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app in stateless mode that nobody can look into gets 500 with the reason in the log."""
    inner = sdk_app(json=True, stateless_http=True)

    async def closed(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    app = DurableSessions(closed, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        assert (await RawClient(browser).post(INITIALIZE)).status == 500
    assert "stateless" in caplog.text


async def test_endless_answer_to_initialize_is_refused(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app that goes on and on without answering initialize gets 500, with the setting to change in the log."""

    async def wordy(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await receive()
        headers = [(b"mcp-session-id", b"app-1"), (b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b": not yet\n\n" * 100, "more_body": True})

    app = DurableSessions(wordy, database_url=sqlite_url, max_remembered_body=1024)
    async with app.lifespan(), browsing(app) as browser:
        assert (await RawClient(browser).post(INITIALIZE)).status == 500
    assert "raise max_remembered_body" in caplog.text
    assert await stored(sqlite_url) == []


class Named(AuthenticationBackend):
    """Authenticates everybody by a header of his choice."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        """Believe the header."""
        return AuthCredentials(), SimpleUser(conn.headers["x-user"])


def named_app() -> Starlette:
    """An app with authentication that is none of the SDK's."""
    app = sdk_app(json=True)
    app.user_middleware.append(Middleware(AuthenticationMiddleware, backend=Named()))
    return app


async def test_unknown_kind_of_user_is_refused(sqlite_url: str) -> None:
    """An authenticated user that the default cannot read is refused, and never taken for nobody."""
    app = DurableSessions(named_app(), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        assert (await RawClient(browser).post(INITIALIZE, ("x-user", "alice"))).status == 403
    assert await stored(sqlite_url) == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_authors_function_tells_the_owner(sqlite_url: str, *, asynchronous: bool) -> None:
    """A function of the author's, synchronous or not, tells the owner from the scope."""

    def owner(scope: Scope) -> Owner:
        return Owner(subject=scope["user"].display_name)

    async def later(scope: Scope) -> Owner:
        return owner(scope)

    app = DurableSessions(named_app(), owner=later if asynchronous else owner, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        client.session_id = (await client.post(INITIALIZE, ("x-user", "alice"))).headers["mcp-session-id"]
        assert (await client.send("DELETE", None, ("x-user", "bob"))).status == 404
        assert await stored(sqlite_url) == [Owner(subject="alice")]
        assert (await client.send("DELETE", None, ("x-user", "alice"))).status == 204


async def stored(database_url: str) -> list[Owner]:
    """The owners of the sessions that are stored."""
    async with SessionManager.open(database_url) as manager:
        return [session.owner for session in await manager.list_sessions()]
