"""One GET stream hears every worker: what an app sends outside of calls reaches it once, in order, wherever it is."""

import asyncio
import json
from datetime import timedelta

import pytest
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.client_streams import ClientStream, TooSlowError
from mcp_sessions.asgi.types import Message
from tests.http.conftest import StartWorker
from tests.http.test_server_requests import opened
from tests.support.asgi import Exchange, browsing
from tests.support.mcp_client import RawClient
from tests.support.mcp_servers import confirmed
from tests.support.polling import until
from tests.support.rows import Rows

CHANGED = "notifications/resources/list_changed"


def heard(stream: Exchange, method: str = CHANGED) -> int:
    """How many messages of a method have come on a stream."""
    return bytes(stream._body).count(method.encode())


async def hears(stream: Exchange, count: int) -> None:
    """Wait until so many messages have come, and no more of them."""
    await until(lambda: heard(stream) >= count)
    assert heard(stream) == count


async def listening(client: RawClient) -> Exchange:
    """Open the client's GET stream."""
    stream = client.begin("GET")
    assert await stream.started() == 200
    return stream


async def test_a_stream_hears_every_worker(start_worker: StartWorker, kind: str) -> None:
    """Workers that had the session before, have it since, or never had it: each is heard once, without a delay."""
    one, other, third = [await start_worker(kind) for _ in range(3)]
    client = RawClient(one)
    await client.initialize()
    assert await client.at(other).call("add", a=1, b=2) == "3"
    stream = await listening(client)
    for count, worker in enumerate((other, third, one, other), start=1):
        assert await client.at(worker).call("announce") == "announced"
        await hears(stream, count)
    later = await listening_elsewhere(client.at(third), stream)
    for count, worker in enumerate((one, other, third), start=1):
        await client.at(worker).call("announce")
        await hears(later, count)
    assert heard(stream) == 4
    later.hang_up()


async def listening_elsewhere(client: RawClient, older: Exchange) -> Exchange:
    """Open the GET stream at another worker; the older one ends, for nothing would come there any more."""
    stream = await listening(client)
    await older.response()
    return stream


@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-sse"])
async def test_a_stream_that_comes_back_hears_on(start_worker: StartWorker, kind: str) -> None:
    """A client that listens, leaves and listens again, here and there, hears what is sent while it listens."""
    workers = [await start_worker(kind) for _ in range(2)]
    client = RawClient(workers[0])
    await client.initialize()
    for turn in range(4):
        stream = await listening(client.at(workers[turn % 2]))
        for count, worker in enumerate(workers, start=1):
            await client.at(worker).call("announce")
            await hears(stream, count)
        stream.hang_up()
        await stream.app_returned()


async def test_no_other_session_hears_it(start_worker: StartWorker) -> None:
    """What is sent in one session comes on no stream of another one, at no worker."""
    one, other = await start_worker(), await start_worker()
    client, stranger = RawClient(one), RawClient(one)
    await client.initialize()
    await stranger.initialize()
    strange = [await listening(stranger)]
    stream = await listening(client.at(other))
    await client.call("announce")
    await client.at(other).call("announce")
    await hears(stream, 2)
    assert [heard(each) for each in strange] == [0]


async def test_many_messages_keep_their_order(start_worker: StartWorker) -> None:
    """Questions of one worker, asked one after the other, come and are answered in order at another."""
    one, other = await start_worker("sdk-json"), await start_worker("sdk-json")
    client = await opened(one)
    stream = await listening(client.at(other))
    for number in range(8):
        calling = asyncio.create_task(client.call("confirm", question=f"number {number}?"))
        await stream.received(f"number {number}?".encode())
        question = await stream.asked("elicitation/create")
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"sure": True}}}
        assert (await client.at(other).post(answer)).status == 202
        assert await calling == f"accept: number {number}?"
    texts = [line for line in bytes(stream._body).splitlines() if b"elicitation/create" in line]
    asked = [json.loads(line[5:])["params"]["message"] for line in texts]
    assert asked == [f"number {number}?" for number in range(8)]


async def test_a_listener_whose_worker_is_gone_harms_nobody(
    start_worker: StartWorker, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the worker with the stream died, calls at others go on, and the next stream hears all of them."""
    one, other = await start_worker(), await start_worker()
    client = RawClient(one)
    await client.initialize()
    stream = await listening(client.at(other))
    await client.call("announce")
    await hears(stream, 1)
    rows = Rows(database_url)
    settings = json.loads(await rows.value("SELECT settings FROM client_settings"))
    dead = json.loads(settings["GET"])[0]
    await rows.execute(f"DELETE FROM workers WHERE worker_id = '{dead}'")
    assert await client.call("announce") == "announced"
    assert await client.call("announce") == "announced"
    again = await listening(client)
    await client.call("announce")
    await hears(again, 1)
    assert "Traceback" not in caplog.text


async def test_an_answer_finds_a_worker_that_asks_after_the_call(database_url: str) -> None:
    """What a tool asks once its call is over comes on the stream at another worker, and the answer goes back."""
    answers: list[str] = []

    def app() -> Starlette:
        server = MCPServer("later", log_level="ERROR")

        @server.tool()
        async def later(ctx: Context) -> str:
            asking = asyncio.create_task(confirmed(ctx.session, "Later?", None))
            asking.add_done_callback(lambda done: answers.append(done.result()))
            return "soon"

        return server.streamable_http_app(json_response=True)

    layers = [DurableSessions(app(), database_url=database_url) for _ in range(2)]
    async with layers[0].lifespan(), layers[1].lifespan(), browsing(layers[0]) as one, browsing(layers[1]) as other:
        client = await opened(one)
        stream = await listening(client.at(other))
        assert await client.call("later") == "soon"
        question = await stream.asked("elicitation/create")
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"sure": True}}}
        assert (await client.at(other).post(answer)).status == 202
        await until(lambda: answers == ["accept: Later?"])


async def test_messages_of_others_come_between_events_and_are_bounded() -> None:
    """What others send waits until an event that came in pieces is whole, and beyond a bound is refused."""
    sent: list[bytes] = []
    is_open = asyncio.Event()

    async def send(message: Message) -> None:
        await is_open.wait()
        sent.append(message.get("body", b""))

    stream = ClientStream(send)
    stream.push("before it has begun")
    is_open.set()
    await stream({"type": "http.response.start", "status": 200, "headers": []})
    await until(lambda: len(sent) == 2)
    await stream({"type": "http.response.body", "body": b"data: to", "more_body": True})
    stream.push("in the middle")
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(sent) == 3
    await stream({"type": "http.response.body", "body": b"rn\n\n", "more_body": True})
    await until(lambda: len(sent) == 5)
    assert sent[2:4] == [b"data: to", b"rn\n\n"]
    assert [b"before" in sent[1], b"middle" in sent[4]] == [True, True]
    is_open.clear()
    for _ in range(256):
        stream.push("to a client that does not read")
    with pytest.raises(TooSlowError):
        stream.push("one too many")
    await stream.aclose()


async def test_a_stream_ends_whose_worker_was_taken_to_be_dead(start_worker: StartWorker, database_url: str) -> None:
    """Others leave nothing more for it, so the client has to listen anew."""
    client = RawClient(await start_worker(worker_lease=timedelta(milliseconds=600)))
    await client.initialize()
    stream = await listening(client)
    await Rows(database_url).execute("DELETE FROM workers")
    assert (await stream.response()).status == 200
    (await listening(client)).hang_up()


async def test_nothing_is_recorded_once_nobody_listens(start_worker: StartWorker, database_url: str) -> None:
    """A stream that ended leaves nothing of itself with the session."""
    client = RawClient(await start_worker())
    await client.initialize()
    stream = await listening(client)
    assert "GET" in await Rows(database_url).value("SELECT settings FROM client_settings")
    stream.hang_up()
    await stream.app_returned()

    async with asyncio.timeout(10):
        while "GET" in await Rows(database_url).value("SELECT settings FROM client_settings"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
