"""Restores that do not come to pass: refused for good, failed for now, slow; and what an app is left with by them."""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastmcp import FastMCP
from fastmcp.server.middleware import Middleware
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from pydantic import AnyHttpUrl

from mcp_sessions import SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.responses import NOT_FOUND
from mcp_sessions.asgi.types import App, Receive, Scope, Send
from tests.http.conftest import StartWorker
from tests.support.asgi import Browser, browsing
from tests.support.mcp_client import INITIALIZE, INITIALIZED, VERSION, RawClient, call
from tests.support.mcp_servers import ISSUER, SCOPE, add, sdk_app
from tests.support.polling import until

ADD = call("add", a=1, b=2)
RESULT = {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {"name": "app", "version": "1"}}


def scripted(initialize: tuple[int, Any], initialized: int = 202) -> App:
    """An app that gives these answers to a handshake."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        message = json.loads((await receive()).get("body") or b"{}")
        method = message.get("method")
        status, member = initialize if method == "initialize" else (initialized, {}) if method else (400, {})
        headers = [(b"mcp-session-id", b"app-1"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), **member}).encode()
        await send({"type": "http.response.body", "body": body})

    return app


def strict() -> App:
    """An app of FastMCP that takes no client of that name any more."""

    class Strict(Middleware):
        async def on_initialize(self, context: Any, call_next: Any) -> Any:  # noqa: ARG002 - their names count
            raise MCPError(code=-32602, message="this client is too old")

    return FastMCP("strict", middleware=[Strict()]).http_app(json_response=True)


def error(code: int) -> dict[str, Any]:
    """A JSON-RPC error."""
    return {"error": {"code": code, "message": "no"}}


REFUSALS: dict[str, Callable[[], App]] = {
    "an error": lambda: scripted((200, error(-32602))),
    "an error of its own": lambda: scripted((200, error(4711))),
    "a status": lambda: scripted((400, error(-32600))),
    "a status later": lambda: scripted((200, {"result": RESULT}), 400),
    "FastMCP": strict,
}


@pytest.mark.parametrize("make", REFUSALS.values(), ids=list(REFUSALS))
async def test_session_that_the_app_refuses_for_good_ends(
    start_worker: StartWorker, database_url: str, make: Callable[[], App]
) -> None:
    """Where the app says no to the handshake itself, the session ends, with a reason of its own, and is 404 at once."""
    client = RawClient(await start_worker())
    await client.initialize()
    app = DurableSessions(make(), database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        for verb in ("POST", "GET", "DELETE"):
            assert (await client.at(browser).send(verb, ADD)).status == 404, verb
    assert (await client.post(ADD)).status == 404
    async with SessionManager.open(database_url) as manager:
        events = (await manager.list_events()).events
    assert [(event.kind, event.reason, event.actor) for event in events] == [
        ("terminated", "restore_refused", "application"),
        ("created", "created", "owner"),
    ]


FAILURES: dict[str, Callable[[], App]] = {
    "an internal error": lambda: scripted((200, error(-32603))),
    "an error of the server": lambda: scripted((200, error(-32000))),
    "the SDK's word for an exception": lambda: scripted((200, error(0))),
    **{str(status): lambda status=status: scripted((status, {})) for status in (401, 403, 404, 421, 429, 500, 503)},  # type: ignore[misc]
    "a status later": lambda: scripted((200, {"result": RESULT}), 503),
}


@pytest.mark.parametrize("make", FAILURES.values(), ids=list(FAILURES))
async def test_failed_restore_is_no_activity(
    start_worker: StartWorker, database_url: str, make: Callable[[], App]
) -> None:
    """What may pass ends nothing, and however often the client tries, the session expires when it would have."""
    opener = await start_worker(touch_interval=0)
    client = RawClient(opener)
    await client.initialize()
    app = DurableSessions(make(), database_url=database_url, touch_interval=timedelta(0))
    async with SessionManager.open(database_url) as manager, app.lifespan(), browsing(app) as browser:
        before = await manager.list_sessions()
        for _ in range(3):
            assert (await client.at(browser).post(ADD)).status >= 400
        assert await manager.list_sessions() == before
        assert await client.call("add", a=1, b=2) == "3"
        assert await manager.list_sessions() != before


def waiting_for(slow: bytes) -> App:
    """An app that never opens a session for whoever calls itself so."""
    inner = sdk_app(json=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or b"mcp-session-id" in dict(scope["headers"]):
            return await inner(scope, receive, send)
        message = await receive()
        if slow in message["body"]:
            await asyncio.Event().wait()

        async def again() -> Any:
            return message

        return await inner(scope, again, send)

    return app


async def sessions_of(browser: Browser, name: str, count: int) -> list[RawClient]:
    """Clients of that name, each with a session."""
    clients = [RawClient(browser) for _ in range(count)]
    params = {**INITIALIZE["params"], "clientInfo": {"name": name, "version": "1"}}
    for client in clients:
        client.session_id = (await client.post({**INITIALIZE, "params": params})).headers["mcp-session-id"]
        await client.post(INITIALIZED)
    return clients


async def test_slow_restores_keep_nobody_waiting(sqlite_url: str) -> None:
    """Forty restores that hang hold up another client's for no longer than a second or so, and count as no activity."""
    opener = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    settings: dict[str, Any] = {"touch_interval": 0, "check_interval": timedelta(milliseconds=50)}
    app = DurableSessions(waiting_for(b'"slow"'), database_url=sqlite_url, **settings)
    async with opener.lifespan(), browsing(opener) as one, app.lifespan(), browsing(app) as browser:
        slow, (quick,) = await sessions_of(one, "slow", 40), await sessions_of(one, "quick", 1)
        async with SessionManager.open(sqlite_url) as manager:
            before = {session.digest: session for session in (await manager.list_sessions()).sessions}
            hanging = [client.at(browser).begin("POST", ADD) for client in slow]
            async with asyncio.timeout(5):
                assert await quick.at(browser).call("add", a=1, b=2) == "3"
            after = {session.digest: session for session in (await manager.list_sessions()).sessions}
        assert len([digest for digest, session in after.items() if session != before[digest]]) == 1
        for each in hanging:
            await each.cancel()


@pytest.mark.slow
async def test_wait_for_a_restore_has_one_bound(sqlite_url: str) -> None:
    """Many sessions whose restores hang are all told so within the one timeout, none after several."""
    patience = timedelta(milliseconds=900)
    opener = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    app = DurableSessions(waiting_for(b'"slow"'), database_url=sqlite_url, restore_timeout=patience)
    async with opener.lifespan(), browsing(opener) as one, app.lifespan(), browsing(app) as browser:
        slow = await sessions_of(one, "slow", 160)
        began = time.monotonic()
        requests = [client.at(browser).begin("POST", ADD) for client in slow]
        await asyncio.gather(*(asyncio.wait_for(each.response(), 10) for each in requests))
        assert time.monotonic() - began < 3 * patience.total_seconds()


async def test_app_session_is_closed_where_the_app_said_404_once(sqlite_url: str) -> None:
    """An app that says 404 to one request and holds its session all the same is not left with it."""
    inner, said = sdk_app(json=True, max_sessions=2), asyncio.Event()

    async def forgetful(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and said.is_set():
            said.clear()
            return await NOT_FOUND(send)
        return await inner(scope, receive, send)

    app = DurableSessions(forgetful, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        for _ in range(6):
            said.set()
            await until(lambda: answers(client))


async def answers(client: RawClient) -> bool:
    """Whether a client is served; where the app has no room for a session yet, it is not."""
    return (await client.post(ADD)).status == 200


class Verifier:
    """Knows one user by two tokens, whose subject the one tells in its claims alone."""

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token stands for."""
        subject, claims = ("alice", {}) if token == "subject" else (None, {"sub": "alice"})  # noqa: S105
        return AccessToken(
            token=token, client_id="c", scopes=[SCOPE], subject=subject, claims={"iss": ISSUER, **claims}
        )


async def test_app_session_of_another_principal_is_closed(sqlite_url: str) -> None:
    """Where the app takes two tokens of one owner for two principals, it holds a session for the last one alone."""
    settings = AuthSettings(
        issuer_url=AnyHttpUrl(ISSUER),
        resource_server_url=AnyHttpUrl("https://notes.example/mcp"),
        required_scopes=[SCOPE],
        validate_token_resource=False,
    )
    server = MCPServer("notes", log_level="WARNING", token_verifier=Verifier(), auth=settings)
    server.add_tool(add)
    app = DurableSessions(server.streamable_http_app(json_response=True, max_sessions=2), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser, user="subject")
        await client.initialize()
        for user in ("claim", "subject") * 3:
            await until(lambda user=user: answers(client.using(user=user)))  # type: ignore[misc]
