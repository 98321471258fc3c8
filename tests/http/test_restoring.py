"""A worker gives itself what it lacks: live sessions that another worker opened, or that the app has dropped."""

import asyncio
import json
from datetime import timedelta

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import App, Receive, Scope, Send
from tests.http.conftest import StartWorker
from tests.support.asgi import Browser, browsing
from tests.support.mcp_client import ACCEPT, INITIALIZE, INITIALIZED, JSON, VERSION, RawClient, call
from tests.support.mcp_servers import GATES, Gate, sdk_app
from tests.support.polling import until

ADD = call("add", a=1, b=2)


async def test_any_worker_serves_any_session(start_worker: StartWorker, kind: str) -> None:
    """Three workers taken in turn serve one session as one would."""
    workers = [await start_worker(kind) for _ in range(3)]
    client = RawClient(workers[0])
    await client.initialize()
    for number in range(9):
        assert await client.at(workers[number % 3]).call("add", a=number, b=1) == str(number + 1)


async def test_first_message_may_reach_another_worker(start_worker: StartWorker, kind: str) -> None:
    """notifications/initialized need not reach the worker that answered initialize."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = RawClient(one)
    client.session_id = (await client.post(INITIALIZE)).headers["mcp-session-id"]
    assert (await client.at(other).post(INITIALIZED)).status == 202
    assert await client.at(other).call("add", a=1, b=2) == "3"


async def test_concurrent_first_requests_restore_once(
    start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Fifty requests that find no live session share one restore, and all are answered."""
    one, other = await start_worker(), await start_worker()
    client = RawClient(one)
    await client.initialize()
    caplog.set_level("INFO", "mcp_sessions")
    answers = await asyncio.gather(*(client.at(other).call("add", a=number, b=1) for number in range(50)))
    assert answers == [str(number + 1) for number in range(50)]
    assert operations(caplog).count("session_restored") == 1


@pytest.mark.parametrize("how", ["hangs up", "is cancelled"])
async def test_restore_outlives_the_request_that_began_it(
    start_worker: StartWorker, database_url: str, how: str
) -> None:
    """The request that began a restore may go away; another that waits for it is answered by the same restore."""
    client = RawClient(await start_worker())
    await client.initialize()
    gate = Gate()
    app = DurableSessions(slow_to_open(gate), database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        first = client.at(browser).begin("POST", call("add", a=1, b=2))
        await gate.reached.wait()
        second = client.at(browser).begin("POST", call("add", a=1, b=2))
        if how == "hangs up":
            first.hang_up()
        else:
            await first.cancel()
        gate.opened.set()
        assert (await second.response()).message["result"]["content"][0]["text"] == "3"
        assert gate.passing == 1


def slow_to_open(gate: Gate) -> App:
    """An app that waits at a gate before it opens a session."""
    inner = sdk_app(json=True)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"mcp-session-id" not in dict(scope["headers"]):
            await gate.passed()
        await inner(scope, receive, send)

    return slow


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_sessions_restored_at_once(
    start_worker: StartWorker, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """After a restart all clients come back at once: each is served, each session restored once."""
    opener = await start_worker()
    clients = [RawClient(opener) for _ in range(count)]
    await asyncio.gather(*(client.initialize() for client in clients))
    caplog.set_level("INFO", "mcp_sessions")
    restarted = await start_worker(restore_timeout=timedelta(minutes=1))
    answers = await asyncio.gather(*(client.at(restarted).call("add", a=1, b=2) for client in clients))
    assert answers == ["3"] * count
    assert operations(caplog).count("session_restored") == count


async def test_session_that_the_app_dropped_is_restored(database_url: str) -> None:
    """When the app's own idle timeout has ended its session, the client's request is answered all the same."""
    app = DurableSessions(sdk_app(json=True, session_idle_timeout=0.05), database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        for _ in range(3):
            await asyncio.sleep(0.1)  # what is waited for is the app's own timer, which cannot be asked
            assert await client.call("add", a=1, b=2) == "3"


async def test_idle_live_session_is_let_go_and_restored(
    start_worker: StartWorker, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody uses for a while is let go by the worker; the session lives on and is restored when needed."""
    worker = await start_worker(kind, let_go_after=timedelta(milliseconds=1))
    client = RawClient(worker)
    await client.initialize()
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", "mcp_sessions")  # or what the SDK logs of the layer's own doings is dropped
    await until(lambda: "Terminating session" in caplog.text)
    assert await client.call("add", a=1, b=2) == "3"
    assert operations(caplog).count("session_restored") == 1


async def test_live_sessions_are_capped(start_worker: StartWorker, caplog: pytest.LogCaptureFixture) -> None:
    """Over the cap, the least recently used idle live session is let go; all sessions go on being served."""
    worker = await start_worker(max_live_sessions=2)
    clients = [RawClient(worker) for _ in range(4)]
    caplog.set_level("INFO", "mcp_sessions")
    for client in clients:
        await client.initialize()
    for client in reversed(clients):
        assert await client.call("add", a=1, b=2) == "3"
    assert operations(caplog).count("session_restored") == 2


async def test_request_in_flight_is_never_let_go(start_worker: StartWorker) -> None:
    """Neither the cap nor the idle time ends a live session with a request in flight."""
    GATES["busy"] = gate = Gate()
    worker = await start_worker(max_live_sessions=1, let_go_after=timedelta(milliseconds=1))
    busy = RawClient(worker)
    await busy.initialize()
    waiting = busy.begin("POST", call("wait", gate="busy"))
    await gate.reached.wait()
    for _ in range(3):
        await RawClient(worker).initialize()
    gate.opened.set()
    assert (await waiting.response()).message["result"]["content"][0]["text"] == "waited"


async def test_cap_holds_up_no_request(start_worker: StartWorker) -> None:
    """More requests in flight than the cap allows live sessions: each restored session is kept for its request."""
    GATES["rush"] = gate = Gate()
    opener, worker = await start_worker(), await start_worker(max_live_sessions=1)
    clients = [RawClient(opener) for _ in range(20)]
    for client in clients:
        await client.initialize()
    rush = [client.at(worker).begin("POST", call("wait", gate="rush")) for client in clients]
    await until(lambda: gate.passing == len(clients))
    gate.opened.set()
    assert {(await each.response()).status for each in rush} == {200}


@pytest.mark.parametrize("header", [("origin", "https://evil.example"), ("mcp-protocol-version", "1999-01-01")])
async def test_let_go_session_is_closed_in_the_app(database_url: str, header: tuple[str, str]) -> None:
    """What is let go ends in the app too, even if the app refused the last request on it."""
    app = DurableSessions(
        sdk_app(json=True, max_sessions=1),
        database_url=database_url,
        let_go_after=timedelta(milliseconds=1),
        check_interval=timedelta(milliseconds=50),
    )
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        headers = [ACCEPT, JSON, ("mcp-session-id", client.session_id or ""), header]
        refused = await browser.request("POST", headers=headers, body=json.dumps(ADD).encode())
        assert refused.status in {400, 403}
        await until(lambda: can_open(browser))


@pytest.mark.parametrize("is_streaming", [False, True], ids=["idle", "streaming"])
async def test_session_deleted_elsewhere_is_closed_in_the_app(
    start_worker: StartWorker, database_url: str, is_streaming: bool
) -> None:
    """A DELETE at another worker ends the app's own session on the worker that held it, by its next check."""
    app = DurableSessions(
        sdk_app(json=True, max_sessions=1),
        database_url=database_url,
        let_go_after=timedelta(hours=1),
        check_interval=timedelta(milliseconds=50),
    )
    other = await start_worker()
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        if is_streaming:
            assert await client.begin("GET").started() == 200
        assert not await can_open(browser)
        assert (await client.at(other).send("DELETE")).status == 204
        await until(lambda: can_open(browser))


async def can_open(browser: Browser) -> bool:
    """Whether the app has room for another session."""
    return (await RawClient(browser).post(INITIALIZE)).status == 200


async def test_session_without_handshake_gets_404(start_worker: StartWorker, database_url: str) -> None:
    """A session that was not opened over HTTP cannot be restored: the client is told to begin anew."""
    async with SessionManager.open(database_url) as manager:
        session_id = await manager.create_session()
    client = RawClient(await start_worker())
    assert (await client.using(session_id=session_id).post(ADD)).status == 404


ERROR = json.dumps({"jsonrpc": "2.0", "id": 0, "error": {"code": -32603, "message": "no"}}).encode()
OTHERS = json.dumps({"jsonrpc": "2.0", "id": 7, "result": {}}).encode()
REFUSALS = {
    "an error": (200, [(b"mcp-session-id", b"app-1")], ERROR),
    "another's result": (200, [(b"mcp-session-id", b"app-1")], OTHERS),
    "no session id": (200, [], ERROR),
    "nothing": (202, [(b"mcp-session-id", b"app-1")], b""),
    "not found": (404, [], b""),
}


@pytest.mark.parametrize(("status", "headers", "body"), REFUSALS.values(), ids=list(REFUSALS))
async def test_app_that_does_not_take_the_handshake_gets_503(
    start_worker: StartWorker, database_url: str, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Where the app does not take the recorded handshake, the client gets 503; the session lives on elsewhere."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    client = RawClient(await start_worker())
    await client.initialize()
    app = DurableSessions(broken, database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        response = await client.at(browser).post(ADD)
        assert response.status == 503
        assert "retry-after" in response.headers
    assert await client.call("add", a=1, b=2) == "3"


async def test_restore_says_the_version_that_was_agreed(start_worker: StartWorker, database_url: str) -> None:
    """The replayed handshake carries the recorded protocol version, and no word of the request at hand."""
    told: list[tuple[bytes | None, bytes | None]] = []

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        headers = dict(scope["headers"])
        told.append((headers.get(b"mcp-protocol-version"), headers.get(b"last-event-id")))
        message = json.loads((await receive())["body"])
        result = {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {"name": "app", "version": "1"}}
        answer = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"mcp-session-id", b"app-1")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    client = RawClient(await start_worker())
    await client.initialize()
    app = DurableSessions(watching, database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        headers = [("mcp-session-id", client.session_id or ""), ("mcp-protocol-version", "1999-01-01")]
        headers.append(("last-event-id", "of-another"))
        await browser.request("POST", headers=headers, body=json.dumps(ADD).encode())
    assert told == [(None, None), (VERSION.encode(), None), (b"1999-01-01", b"of-another")]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_apps_own_refusal_comes_through_a_failed_restore(
    start_worker: StartWorker, database_url: str, status: int
) -> None:
    """Where the app refuses the handshake for reasons of its own, the client gets to see them."""

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-reason", b"busy")]})
        await send({"type": "http.response.body", "body": b"why"})

    client = RawClient(await start_worker())
    await client.initialize()
    app = DurableSessions(refusing, database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        response = await client.at(browser).post(ADD)
        assert (response.status, response.headers["x-reason"], response.body) == (status, "busy", b"why")


def operations(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged, by its names for it."""
    return [getattr(record, "operation", "") for record in caplog.records]
