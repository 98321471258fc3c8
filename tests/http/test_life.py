"""What counts as activity, what ends a session, and what happens to requests and streams that are open then."""

import asyncio
from datetime import timedelta

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import Receive, Scope, Send
from mcp_sessions.digests import digest_of
from tests.http.conftest import StartWorker
from tests.support.ageing import age
from tests.support.asgi import browsing
from tests.support.mcp_client import RawClient, call
from tests.support.mcp_servers import GATES, Gate, sdk_app
from tests.support.polling import until

ADD = call("add", a=1, b=2)
NEARLY_EXPIRED = timedelta(minutes=29)


async def test_stream_delivers_what_the_server_sends(start_worker: StartWorker) -> None:
    """Progress notifications of a tool reach the client on the stream of its request, also after a restore."""
    one, other = await start_worker("sdk-sse"), await start_worker("sdk-sse")
    client = RawClient(one)
    await client.initialize()
    message = call("count", to=3)
    message["params"]["_meta"] = {"progressToken": "p"}
    for worker in (one, other):
        response = await client.at(worker).post(message)
        assert response.body.count(b"notifications/progress") == 3
        assert response.message["result"]["content"][0]["text"] == "3"


async def test_open_stream_is_activity(client: RawClient, database_url: str) -> None:
    """A GET stream keeps its session alive while it is open."""
    stream = client.begin("GET")
    assert await stream.started() == 200
    session_id = client.session_id or ""
    await age(database_url, session_id, NEARLY_EXPIRED)
    async with SessionManager.open(database_url) as manager:
        await until(lambda: was_just_active(manager, session_id))
    assert not stream.ended


async def test_request_in_flight_is_activity(client: RawClient, database_url: str) -> None:
    """A request keeps its session alive until it completes, however long it takes."""
    GATES["long"] = gate = Gate()
    waiting = client.begin("POST", call("wait", gate="long"))
    await gate.reached.wait()
    session_id = client.session_id or ""
    await age(database_url, session_id, NEARLY_EXPIRED)
    async with SessionManager.open(database_url) as manager:
        await until(lambda: was_just_active(manager, session_id))
    gate.opened.set()
    assert (await waiting.response()).status == 200


async def test_end_of_a_long_request_is_activity(start_worker: StartWorker, database_url: str) -> None:
    """A request that took longer than the touch interval is recorded as activity when it completes."""
    client = RawClient(await start_worker(touch_interval=0, check_interval=timedelta(hours=1)))
    await client.initialize()
    GATES["end"] = gate = Gate()
    waiting = client.begin("POST", call("wait", gate="end"))
    await gate.reached.wait()
    session_id = client.session_id or ""
    await age(database_url, session_id, NEARLY_EXPIRED)
    gate.opened.set()
    await waiting.response()
    await waiting.app_returned()
    async with SessionManager.open(database_url) as manager:
        assert await was_just_active(manager, session_id)


async def test_call_is_cancelled_on_the_worker_that_runs_it(start_worker: StartWorker, kind: str) -> None:
    """A notification that cancels a call stops the call alone: the session goes on."""
    client = RawClient(await start_worker(kind))
    await client.initialize()
    GATES["cancelled"] = gate = Gate()
    message = call("wait", gate="cancelled")
    waiting = client.begin("POST", message)
    await gate.reached.wait()
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": message["id"]}}
    assert not waiting.ended
    assert (await client.post(cancel)).status == 202
    await waiting.response()
    assert await client.call("add", a=1, b=2) == "3"


async def test_idle_live_session_is_no_activity(start_worker: StartWorker, database_url: str) -> None:
    """That a worker holds a live session keeps nothing alive: after the idle timeout every worker answers 404."""
    worker = await start_worker()
    client = RawClient(worker)
    await client.initialize()
    await age(database_url, client.session_id or "", timedelta(minutes=32))
    await asyncio.sleep(0.3)  # three checks of the worker pass
    assert (await client.post(ADD)).status == 404


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_delete_closes_open_streams(start_worker: StartWorker, kind: str, where: str) -> None:
    """DELETE closes the session's open streams, on the worker that answers it and on every other."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = RawClient(one)
    await client.initialize()
    stream = client.begin("GET")
    assert await stream.started() == 200
    deleted_at = one if where == "here" else other
    assert (await client.at(deleted_at).send("DELETE")).status == 204
    assert (await stream.response()).status == 200
    await stream.app_returned()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_delete_cuts_requests_in_flight(start_worker: StartWorker, where: str) -> None:
    """A request that is in flight when its session ends is answered 404, on every worker."""
    one, other = await start_worker(), await start_worker()
    client = RawClient(one)
    await client.initialize()
    GATES["cut"] = gate = Gate()
    waiting = client.begin("POST", call("wait", gate="cut"))
    await gate.reached.wait()
    await client.at(one if where == "here" else other).send("DELETE")
    assert (await waiting.response()).status == 404


async def test_operator_ends_a_session_with_an_open_stream(client: RawClient, database_url: str) -> None:
    """A session that is ended in the database alone has its streams closed and answers 404."""
    stream = client.begin("GET")
    await stream.started()
    async with SessionManager.open(database_url) as manager:
        assert await manager.clear_all_sessions() == 1
    await stream.response()
    assert (await client.post(ADD)).status == 404


async def test_client_that_hangs_up_ends_nothing(client: RawClient) -> None:
    """A dropped connection ends neither the session nor what was committed."""
    stream = client.begin("GET")
    await stream.started()
    stream.hang_up()
    await stream.app_returned()
    assert await client.call("add", a=1, b=2) == "3"
    again = client.begin("GET")
    assert await again.started() == 200


async def test_delete_does_not_wait_for_the_app(database_url: str) -> None:
    """DELETE is answered before the app ends its own session, which serves nobody by then; a shutdown gives it up."""
    gate = Gate()
    asked: list[bytes | None] = []
    inner = sdk_app(json=True)

    async def slow_to_close(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.append(dict(scope["headers"]).get(b"mcp-session-id"))
            if scope["method"] == "DELETE" and asked[-1] not in {None, b"none"}:
                await gate.passed()
        await inner(scope, receive, send)

    app = DurableSessions(slow_to_close, database_url=database_url)
    async with asyncio.timeout(10):
        async with app.lifespan(), browsing(app) as browser:
            client = RawClient(browser)
            await client.initialize()
            assert (await client.send("DELETE")).status == 204
            await gate.reached.wait()
            asked.clear()
            for verb in ("POST", "GET", "DELETE"):
                assert (await client.send(verb, ADD)).status == 404
            assert asked == [b"none", b"none", None]  # each was refused, none got to the session that is closing


async def test_refused_delete_leaves_nothing_in_the_app(database_url: str) -> None:
    """That the app is asked about a DELETE takes no room in it, whether it refuses the DELETE or not."""
    app = DurableSessions(sdk_app(json=True, max_sessions=2), database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        for _ in range(3):
            assert (await client.send("DELETE", None, ("origin", "https://evil.example"))).status == 403
            assert (await client.using(session_id="unknown").send("DELETE")).status == 404
        await RawClient(browser).initialize()
        assert await client.call("add", a=1, b=2) == "3"


async def test_second_delete_gets_404(client: RawClient) -> None:
    """A session ends once."""
    assert (await client.send("DELETE")).status == 204
    assert (await client.send("DELETE")).status == 404


async def test_concurrent_deletes_end_it_once(start_worker: StartWorker) -> None:
    """Of ten DELETEs at once on two workers, one ends the session and the others find none."""
    workers = [await start_worker(), await start_worker()]
    client = RawClient(workers[0])
    await client.initialize()
    answers = await asyncio.gather(*(client.at(workers[number % 2]).send("DELETE") for number in range(10)))
    assert sorted(answer.status for answer in answers) == [204] + [404] * 9


async def was_just_active(manager: SessionManager, session_id: str) -> bool:
    """Whether activity was recorded after the session was made older."""
    found = await manager.find_sessions(digest_of(session_id).hex())
    (session,) = found
    return session.expires_at - session.created_at > timedelta(minutes=45)
