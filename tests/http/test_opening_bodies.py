"""Bodies of requests that open sessions: the app has its say before one is held, and all together are bounded."""

import asyncio
import gzip
import json
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.body import SHORT
from mcp_sessions.asgi.types import App, Message, Receive, Scope, Send
from mcp_sessions.records.sessions import HANDSHAKE_MAX_LENGTH
from tests.http.conftest import StartWorker
from tests.support.asgi import browsing
from tests.support.mcp_client import INITIALIZE, VERSION, RawClient, call
from tests.support.mcp_servers import APPS, sdk_app
from tests.support.polling import until
from tests.support.slow_client import Slow

LONG = ("content-length", str(SHORT + 1))


def filled(length: int) -> bytes:
    """An initialize of that many bytes."""
    bare = len(json.dumps({**INITIALIZE, "filling": ""}))
    return json.dumps({**INITIALIZE, "filling": "x" * (length - bare)}).encode()


@pytest.mark.parametrize("length", [[], [LONG]], ids=["not told", "long"])
@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-sse"])
async def test_app_refuses_before_a_long_body_is_read(sqlite_url: str, kind: str, length: Any) -> None:
    """Without a token one hears the app's 401 before a byte is read of a body that is long or of unknown length."""
    app = DurableSessions(APPS[kind](auth=True), database_url=sqlite_url)
    async with app.lifespan():
        client = Slow(app, *length)
        response = await client.response()
        assert response.status == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert not client.starved.is_set()


@pytest.mark.parametrize(("name", "value", "status"), [("origin", "https://evil.example", 403), ("host", "evil", 421)])
@pytest.mark.parametrize("kind", ["sdk-json", "sdk-sse"])
async def test_foreign_origin_and_host_are_the_apps_to_refuse(
    sqlite_url: str, kind: str, name: str, value: str, status: int
) -> None:
    """Without a session id, too, a foreign Origin or Host gets the app's own answer, however long the body is."""
    app = DurableSessions(APPS[kind](), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        for verb in ("GET", "DELETE", "POST"):
            assert (await RawClient(browser).send(verb, None, (name, value))).status == status
        assert (await RawClient(browser).post(INITIALIZE, (name, value))).status == status
        assert (await Slow(app, LONG, (name, value)).response()).status == status


@pytest.mark.parametrize("length", [str(HANDSHAKE_MAX_LENGTH + 1), "1000000000", "9" * 5000])
@pytest.mark.parametrize("own", [True, False], ids=["sdk", "other"])
async def test_length_beyond_the_bound_gets_413_at_once(sqlite_url: str, length: str, *, own: bool) -> None:
    """A body that is said to be too long is not waited for, be the app one that knows a bound itself or not."""
    app = DurableSessions(sdk_app(json=True) if own else opening, database_url=sqlite_url)
    async with app.lifespan():
        client = Slow(app, ("content-length", length))
        assert (await client.response()).status == 413
        assert not client.starved.is_set()


async def test_initialize_is_bounded_by_what_can_be_recorded(start_worker: StartWorker, kind: str) -> None:
    """An initialize of exactly one megabyte opens a session; one byte more, of told length or not, is 413."""
    worker = await start_worker(kind)
    client = RawClient(worker)
    response = await worker.request("POST", headers=client.headers(), body=filled(HANDSHAKE_MAX_LENGTH))
    assert response.status == 200
    assert "mcp-session-id" in response.headers
    for length in ([], [("content-length", "")]):  # an empty one tells nothing
        body = filled(HANDSHAKE_MAX_LENGTH + 1)
        response = await worker.request("POST", headers=client.headers(*length), body=body)
        assert response.status == 413


async def test_bodies_of_all_requests_are_bounded(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is held of slow long bodies leaves no room for one more, which gets 503; short ones are served."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, max_held_bodies=HANDSHAKE_MAX_LENGTH)
    async with app.lifespan(), browsing(app) as browser:
        slow = [Slow(app, pieces=9) for _ in range(2)]  # each half the room, beyond what is not counted
        await asyncio.gather(*(each.starved.wait() for each in slow))
        refused = await Slow(app, pieces=2).response()
        assert refused.status == 503
        assert "retry-after" in refused.headers
        (line,) = [record.message for record in caplog.records if record.name == "mcp_sessions"]
        assert line.startswith("mcp-sessions answered 503: ")
        assert "1048576 bytes of max_held_bodies" in line
        await RawClient(browser).initialize()
        await asyncio.gather(*(each.hang_up() for each in slow))
        response = await browser.request(
            "POST", headers=RawClient(browser).headers(), body=filled(HANDSHAKE_MAX_LENGTH)
        )
        assert response.status == 200


async def test_asking_the_app_takes_nothing_of_the_body(sqlite_url: str) -> None:
    """An app that streams its refusal of an empty body listens for the client to leave, and hears of no body."""
    inner = sdk_app(json=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await inner(scope, receive, send)
        first = [await receive()]
        if not first[0].get("body"):
            older = {**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}  # as uvicorn has it
            return await StreamingResponse(iter([b"x"] * 3), 400)(older, receive, send)

        async def again() -> Message:
            return first.pop() if first else await receive()

        return await inner(scope, again, send)

    durable = DurableSessions(app, database_url=sqlite_url, body_timeout=timedelta(seconds=2))
    async with durable.lifespan(), browsing(durable) as browser:
        for length in (100_000, 500_000):
            response = await browser.request("POST", headers=RawClient(browser).headers(), body=filled(length))
            assert response.status == 200


async def test_body_that_does_not_come_gets_408(sqlite_url: str) -> None:
    """A body that does not arrive in time is waited for no longer."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, body_timeout=timedelta(milliseconds=50))
    async with app.lifespan():
        assert (await Slow(app, pieces=1).response()).status == 408


async def test_full_app_does_not_keep_a_session_from_ending(sqlite_url: str) -> None:
    """Where the app has no room for another session, DELETE ends one, and there is room again."""
    app = DurableSessions(sdk_app(json=True, max_sessions=1), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        assert (await RawClient(browser).post(INITIALIZE)).status == 503
        assert (await client.send("DELETE")).status == 204
        assert (await client.send("POST", INITIALIZE)).status == 404
        newcomer = RawClient(browser)

        async def opened() -> bool:
            return (await newcomer.post(INITIALIZE)).status == 200

        await until(opened)  # the app ends its own session in the background


@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-json", "sdk-sse"])
@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "seen"])
async def test_app_that_compresses_has_sessions(sqlite_url: str, kind: str, *, hidden: bool) -> None:
    """An app inside GZipMiddleware opens sessions and restores them, wherever in it the layer finds its place."""

    def compressing() -> App:
        app = GZipMiddleware(APPS[kind](), minimum_size=1)

        async def hiding(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

        return hiding if hidden else app

    one, other = (DurableSessions(compressing(), database_url=sqlite_url) for _ in range(2))
    accepted = ("accept-encoding", "gzip, deflate")
    async with one.lifespan(), other.lifespan(), browsing(one) as first, browsing(other) as second:
        client = RawClient(first)
        client.session_id = (await client.post(INITIALIZE, accepted)).headers["mcp-session-id"]
        for browser in (first, second):
            response = await client.at(browser).post(call("add", a=1, b=2), accepted)
            if response.headers.get("content-encoding") == "gzip":
                response = replace(response, body=gzip.decompress(response.body))
            assert response.message["result"]["content"][0]["text"] == "3"


@pytest.mark.parametrize(
    ("headers", "version", "said"),
    [
        ([(b"content-encoding", b"br")], VERSION, "compress in front of DurableSessions instead"),
        ([], "", "the app's answer to initialize cannot be recorded: protocol_version"),
        ([], "\0", "the app's answer to initialize cannot be recorded: protocol_version"),
    ],
)
async def test_answer_that_cannot_be_recorded_is_the_servers_fault(
    sqlite_url: str, caplog: pytest.LogCaptureFixture, headers: Any, version: str, said: str
) -> None:
    """An app that compresses unasked, or names an impossible protocol version, gets 500, and one line says why."""

    async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
        await opening(scope, receive, send, headers=headers, version=version)

    app = DurableSessions(wrong, database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        assert (await RawClient(browser).post(INITIALIZE)).status == 500
    (line,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert said in line


async def test_answers_need_no_headers(sqlite_url: str) -> None:
    """Where an app leaves out the headers of an answer, as ASGI allows, it is passed on, or judged, without any."""
    bare = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def without(message: Message) -> None:
            await send({"type": message["type"], "status": message["status"]} if "status" in message else message)

        await opening(scope, receive, without if bare else send)

    async with (durable := DurableSessions(app, database_url=sqlite_url)).lifespan(), browsing(durable) as browser:
        client = RawClient(browser)
        client.session_id = (await client.post(INITIALIZE)).headers["mcp-session-id"]
        bare = True
        for verb in ("POST", "GET", "OPTIONS"):
            assert (await client.send(verb)).status == 200
        assert (await RawClient(browser).post(INITIALIZE)).status == 500  # no session id: an app without sessions
        assert (await RawClient(browser).post({})).status == 400
        assert (await client.send("DELETE")).status == 204


async def opening(scope: Scope, receive: Receive, send: Send, *, headers: Any = (), version: str = VERSION) -> None:
    """An app that answers whatever it reads as if it were initialize."""
    assert scope["type"] == "http"
    while (await receive()).get("more_body", False):
        pass
    result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "app", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": INITIALIZE["id"], "result": result}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"app-1"), *headers]})
    await send({"type": "http.response.body", "body": body})
