"""An answer of the user's reaches the question that it was given to, and no other, whoever asked and wherever."""

import asyncio
import itertools
import json
from datetime import timedelta
from typing import Any

import pytest
from starlette.middleware.gzip import GZipMiddleware

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import Receive, Scope, Send
from tests.http.conftest import StartWorker
from tests.support.asgi import Browser, Exchange, browsing
from tests.support.mcp_client import INITIALIZE, INITIALIZED, VERSION, RawClient, call
from tests.support.mcp_servers import sdk_app
from tests.support.polling import until

ASKING: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


async def opened(browser: Browser) -> RawClient:
    """A client that can be asked, with a session."""
    client = RawClient(browser)
    response = await client.post({**INITIALIZE, "params": {**INITIALIZE["params"], "capabilities": ASKING}})
    client.session_id = response.headers["mcp-session-id"]
    assert (await client.post(INITIALIZED)).status == 202
    return client


class Question:
    """A call in which the server asks the user something."""

    def __init__(self, client: RawClient, streams: Exchange | None, calling: Exchange) -> None:
        self._client = client
        self.stream = streams or calling
        self.calling = calling
        self.id: Any = None
        self.request_id: Any = None

    @classmethod
    async def of(cls, client: RawClient, kind: str, text: str) -> "Question":
        """Call the tool that asks, and wait until the question has come."""
        listening = client.begin("GET") if kind.endswith("json") else None
        if listening:
            assert await listening.started() == 200
        calling = call("confirm", question=text)
        question = cls(client, listening, client.begin("POST", calling))
        question.request_id = calling["id"]
        request = await question.stream.asked("elicitation/create")
        assert request["params"]["message"] == text
        question.id = request["id"]
        return question

    async def told(self) -> str:
        """Wait for the end of the call."""
        text: str = (await self.calling.response()).message["result"]["content"][0]["text"]
        return text


def yes(request_id: Any) -> dict[str, Any]:
    """The user's answer to a question."""
    return {"jsonrpc": "2.0", "id": request_id, "result": {"action": "accept", "content": {"sure": True}}}


async def test_yes_finds_the_worker_that_asked(start_worker: StartWorker, kind: str) -> None:
    """A "yes" to the weather, POSTed to a worker that asks about deleting all data, answers that one."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = await opened(one)
    weather = await Question.of(client, kind, "Show the weather?")
    deletion = await Question.of(client.at(other), kind, "DELETE ALL DATA?")
    assert (await client.at(other).post(yes(weather.id))).status == 202
    assert await weather.told() == "accept: Show the weather?"
    assert not deletion.calling.ended
    no = {"jsonrpc": "2.0", "id": deletion.id, "result": {"action": "decline"}}
    assert (await client.post(no)).status == 202
    assert await deletion.told() == "decline: DELETE ALL DATA?"


async def test_yes_to_a_worker_that_is_gone_is_refused(client: RawClient) -> None:
    """An id of a worker that does not live any more, or never did, is nobody's: 400, and no app hears of it."""
    gone = f"{'x' * 12}.{'y' * 22}"
    refused = await client.post(yes(gone))
    assert refused.status == 400
    assert refused.message["error"]["code"] == -32600
    assert (await client.post([yes(gone)])).status == 400
    progress = {"progressToken": gone, "progress": 1}
    notification = {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}
    assert (await client.post(notification)).status == 202  # no answer, so nothing is refused


async def test_another_session_cannot_answer_at_another_worker(start_worker: StartWorker, kind: str) -> None:
    """The id of one session's question is nobody's in another session, whichever worker takes the answer."""
    one, other = await start_worker(kind), await start_worker(kind)
    client, stranger = await opened(one), await opened(other)
    question = await Question.of(client, kind, "Mine?")
    assert (await stranger.post(yes(question.id))).status == 202  # stored for the worker that asked, which drops it
    await stranger.at(one).initialize()
    assert (await stranger.at(other).post(yes(question.id))).status == 202
    assert not question.calling.ended
    assert (await client.at(other).post(yes(question.id))).status == 202
    assert await question.told() == "accept: Mine?"


async def test_a_call_is_cancelled_at_another_worker(start_worker: StartWorker, kind: str) -> None:
    """`notifications/cancelled` stops the call on the worker that runs it, wherever it was sent."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = await opened(one)
    question = await Question.of(client, kind, "Still there?")
    assert (await client.at(other).post(INITIALIZED)).status == 202
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": question.request_id}}
    assert (await client.at(other).post(cancelled)).status == 202
    response = (await question.calling.response()).message
    assert response["id"] == question.request_id
    assert "error" in response


async def test_yes_from_before_a_restore_is_no_answer_after_it(
    start_worker: StartWorker, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was asked before the worker let the session go is not answered by a "yes" that comes after its restore."""
    caplog.set_level("INFO")
    caplog.set_level("DEBUG", "mcp_sessions")  # or what the SDK logs of the layer's own doings is dropped
    client = await opened(await start_worker(kind, let_go_after=timedelta(milliseconds=1)))
    weather = await Question.of(client, kind, "Show the weather?")
    caplog.clear()
    weather.stream.hang_up()
    await weather.calling.cancel()
    await until(lambda: "Terminating session" in caplog.text)
    deletion = await Question.of(client, kind, "DELETE ALL DATA?")
    assert (await client.post(yes(weather.id))).status == 400
    assert not deletion.calling.ended
    assert "answer_refused" in {getattr(record, "operation", "") for record in caplog.records}
    assert (await client.post(yes(deletion.id))).status == 202
    assert await deletion.told() == "accept: DELETE ALL DATA?"


async def test_only_the_id_that_was_given_answers_and_once(start_worker: StartWorker, kind: str) -> None:
    """Neither a number that an SDK might have counted to answers a question, nor a second "yes" to the same one."""
    client = await opened(await start_worker(kind))
    question = await Question.of(client, kind, "Really?")
    for guess in (0, 1, 2, 3, "1", "2", None, 1.0, True, [question.id]):
        assert (await client.post(yes(guess))).status == 400, guess
        assert (await client.post([yes(guess)])).status == 400, guess
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "no"}}
    assert (await client.post(error)).status == 400
    assert not question.calling.ended
    assert (await client.post(yes(question.id))).status == 202
    assert await question.told() == "accept: Really?"
    assert (await client.post(yes(question.id))).status == 400


async def test_another_session_cannot_answer(start_worker: StartWorker, kind: str) -> None:
    """The id of one session's question is nobody's in another session of the same owner."""
    worker = await start_worker(kind)
    client, other = await opened(worker), await opened(worker)
    question = await Question.of(client, kind, "Mine?")
    assert (await other.post(yes(question.id))).status == 400
    assert (await client.post(yes(question.id))).status == 202
    assert await question.told() == "accept: Mine?"


async def test_answer_longer_than_what_is_remembered_of_a_request(start_worker: StartWorker, kind: str) -> None:
    """An answer of a megabyte, its id at the very end of it, is mapped like any other; one beyond the bound is 413."""
    client = await opened(await start_worker(kind, max_held_message=2_000_000))
    question = await Question.of(client, kind, "At length?")
    long = {"result": {"action": "accept", "content": {"sure": True}, "_meta": {"filling": "x" * 1_000_000}}}
    huge = {"result": {"_meta": {"filling": "x" * 2_000_000}}}
    assert (await client.post({"jsonrpc": "2.0", **huge, "id": question.id})).status == 413
    assert (await client.post({"jsonrpc": "2.0", **long, "id": 1})).status == 400
    assert (await client.post({"jsonrpc": "2.0", **long, "id": question.id})).status == 202
    assert await question.told() == "accept: At length?"


FILLING = b'"x": "%s"' % (b"x" * 70_000)
HIDDEN = {
    "a method that is no string": b'{"method": 5, %(filling)s, %(answer)s}',
    "a second method": b'{"method": "ping", %(filling)s, "method": null, %(answer)s}',
    "a second method, escaped": rb'{"method": "ping", %(filling)s, "m\u0065thod": null, %(answer)s}',
    "a method that an answer has, too": b'{"method": "ping", "params": 5, %(filling)s, %(answer)s}',
    "an answer, escaped": rb'{"method": "ping", "params": 5, %(filling)s, %(escaped)s}',
    "blanks": b" " * 70_000 + b"{%(answer)s}",
    "a byte order mark": b"\xef\xbb\xbf{%(filling)s, %(answer)s}",
    "a number beyond Python's": b'{"x": ' + b"1" * 5_000 + b", %(answer)s}",
}


async def test_no_text_hides_an_answer(start_worker: StartWorker, kind: str) -> None:
    """However a long text hides that it answers the server, no app takes it under an id that the layer did not give."""
    worker = await start_worker(kind)
    client = await opened(worker)
    question = await Question.of(client, kind, "DELETE ALL DATA?")
    for number, (hidden, guess) in enumerate(itertools.product(HIDDEN, range(3))):
        answer = json.dumps(yes(guess)).encode()[1:-1]
        parts = {b"filling": FILLING, b"answer": answer, b"escaped": answer.replace(b'"result"', rb'"r\u0065sult"')}
        headers = client.headers(*([("content-length", "")] if number % 2 else []))
        response = await worker.request("POST", headers=headers, body=HIDDEN[hidden] % parts)
        assert response.status in {400, 413}, hidden
        assert not question.calling.ended, hidden
    assert (await client.post(yes(question.id))).status == 202
    assert await question.told() == "accept: DELETE ALL DATA?"


@pytest.mark.parametrize("filling", [100, 100_000])
async def test_a_long_cancellation_reaches_the_worker_that_runs_the_call(
    start_worker: StartWorker, kind: str, filling: int
) -> None:
    """However long its reason is, a cancellation stops the call wherever that runs."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = await opened(one)
    question = await Question.of(client, kind, "Still there?")
    params = {"requestId": question.request_id, "reason": "x" * filling}
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    assert (await client.at(other).post(cancelled)).status == 202
    assert "error" in (await question.calling.response()).message


async def test_batches_of_anything_do_no_harm(start_worker: StartWorker, kind: str) -> None:
    """Lists in lists, deep ones, and batches of more than a client has to say are refused, and nobody else notices."""
    worker = await start_worker(kind)
    client = await opened(worker)
    for depth in (2, 600, 900, 5_000):
        for inside in (b'"result"', b'{"jsonrpc": "2.0", "id": 1, "result": {}}'):
            body = b"[" * depth + inside + b"]" * depth
            response = await worker.request("POST", headers=client.headers(), body=body)
            assert response.status in {400, 413}
    deep: Any = "end"
    for _ in range(900):
        deep = [deep]
    for message in (
        {"jsonrpc": "2.0", "id": 7, "method": "logging/setLevel", "params": {"level": deep}},
        {"jsonrpc": "2.0", "id": "a.b", "result": deep},
        [{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}] * 1_000,
    ):
        assert (await client.post(message)).status in {200, 400, 413}
    assert await client.call("add", a=1, b=2) == "3"


class Asking:
    """An app that answers a tools/call with what it is told to, and remembers what it is sent."""

    def __init__(self, *answer: bytes, content_type: bytes = b"text/event-stream") -> None:
        self._answer = answer
        self._content_type = content_type
        self.seen: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http"
        body = (await receive())["body"]
        message = json.loads(body) if body else None
        headers = [(b"mcp-session-id", b"app-1"), (b"content-type", b"application/json")]
        if scope["method"] == "DELETE" or message is None:
            return await _send(send, 400, headers, b"")
        if isinstance(message, dict) and message.get("method") == "initialize":
            result = {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {"name": "app", "version": "1"}}
            return await _send(send, 200, headers, json.dumps({"jsonrpc": "2.0", "id": 0, "result": result}).encode())
        self.seen.append(message)
        if isinstance(message, dict) and message.get("method") == "tools/call":
            headers = [(b"content-type", self._content_type), (b"content-length", b"%d" % sum(map(len, self._answer)))]
            return await _send(send, 200, headers, *self._answer)
        return await _send(send, 202, headers, b"")


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], *pieces: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {"progressToken": 1, "more": 2}}}
DONE = {"jsonrpc": "2.0", "id": 77, "result": {}}


@pytest.mark.parametrize("content_type", [b"application/json", b"text/event-stream"])
async def test_requests_in_batches_are_renamed_and_answered_in_batches(sqlite_url: str, content_type: bytes) -> None:
    """Batches, of revision 2025-03-26, go both ways; the length that is announced is that of what comes."""
    batch = json.dumps([PING, DONE]).encode()
    text = b"data: " + batch + b"\n\n" if content_type == b"text/event-stream" else batch
    app = Asking(text, content_type=content_type)
    layer = DurableSessions(app, database_url=sqlite_url)
    async with layer.lifespan(), browsing(layer) as browser:
        client = await opened(browser)
        response = await client.post(call("add"))
        ping, done = json.loads(response.body.removeprefix(b"data: "))
        assert done == DONE
        assert ping == {**PING, "id": ping["id"], "params": {"_meta": {"progressToken": ping["id"], "more": 2}}}
        assert int(response.headers.get("content-length", len(response.body))) == len(response.body)
        answers = [{**DONE, "id": ping["id"]}, call("add")]
        assert (await client.post([*answers, {**DONE, "id": 1}])).status == 400
        assert (await client.post(answers)).status == 202
        assert app.seen[-1] == [{**DONE, "id": 1}, answers[1]]


async def test_progress_and_cancellation_are_mapped(sqlite_url: str) -> None:
    """Progress finds the token that the app gave, or nobody; what the app cancels, the client knows by its id."""
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    events = [b"data: %s\n\n" % json.dumps({**PING, "id": number}).encode() for number in (1, 2)]
    app = Asking(*events, b"data: %s\n\n" % json.dumps(cancelled).encode())
    layer = DurableSessions(app, database_url=sqlite_url)
    async with layer.lifespan(), browsing(layer) as browser:
        client = await opened(browser)
        body = (await client.post(call("add"))).body
        first, second, gone = [json.loads(event[5:]) for event in body.split(b"\n\n") if event]
        assert gone["params"]["requestId"] == first["id"] != second["id"]
        before = len(app.seen)
        for token in (first["id"], 1, "1", None):
            assert (await client.post(progress(token))).status == 202
        assert len(app.seen) == before
        assert (await client.post(progress(second["id"]))).status == 202
        assert app.seen[-1] == progress(1)
        assert (await client.post(yes(first["id"]))).status == 400
        mine = {**cancelled, "params": {"requestId": second["id"]}}
        assert (await client.post(mine)).status == 202
        assert app.seen[-1] == mine


def progress(token: Any) -> dict[str, Any]:
    """A client's word of how far it has come."""
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}


async def test_request_too_long_to_be_looked_at_is_not_let_out(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A request of the server's beyond the bound ends the stream before it, with an error in the log that says so."""
    long = {**PING, "params": {"filling": "x" * 300_000}}
    pieces = [json.dumps(long).encode()[at : at + 50_000] for at in range(0, 301_000, 50_000)]
    app = Asking(b"data: {}\n\n", b"data: ", *pieces, b"\n\n")
    layer = DurableSessions(app, database_url=sqlite_url, max_held_message=200_000)
    async with layer.lifespan(), browsing(layer) as browser:
        client = await opened(browser)
        assert (await client.post(call("add"))).body == b"data: {}\n\n"
    assert "mcp-sessions broke an answer off: " in caplog.text
    assert "raise max_held_message" in caplog.text


async def test_long_answer_passes_whatever_its_length(sqlite_url: str) -> None:
    """The result of a call is not held, however long it is, and what follows it on the stream is looked at again."""
    long = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"filling": "x" * 700_000, "method": "no"}}).encode()
    pieces = [(b"data: " + long + b"\r\n\r\n")[at : at + 50_000] for at in range(0, 701_000, 50_000)]
    app = Asking(*pieces, b"data: %s\r\n\r\n" % json.dumps(PING).encode())
    layer = DurableSessions(app, database_url=sqlite_url, max_held_message=200_000)
    async with layer.lifespan(), browsing(layer) as browser:
        client = await opened(browser)
        answer, ping, _ = (await client.post(call("add"))).body.split(b"\r\n\r\n")
        assert answer == b"data: " + long
        assert json.loads(ping[5:])["id"] != PING["id"]


async def test_app_that_compresses_cannot_hide_a_request(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app is not asked to compress; one that does so all the same is not passed on, and the log says what to do."""
    app = Asking(json.dumps([PING] * 20).encode(), content_type=b"application/json")
    layer = DurableSessions(GZipMiddleware(app, minimum_size=1), database_url=sqlite_url)
    async with layer.lifespan(), browsing(layer) as browser:
        client = await opened(browser)
        response = await client.post(call("add"), ("accept-encoding", "gzip"))
        assert b"progressToken" in response.body
        assert b'"id": 1,' not in response.body

    async def compressing(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"accept-encoding", b"gzip"), *scope["headers"]]
        is_call = b"mcp-session-id" in dict(scope["headers"])
        await GZipMiddleware(app, minimum_size=1)({**scope, "headers": headers if is_call else []}, receive, send)

    layer = DurableSessions(compressing, database_url=sqlite_url)
    async with layer.lifespan(), browsing(layer) as browser:
        client = RawClient(browser)
        client.session_id = (await client.post(INITIALIZE)).headers["mcp-session-id"]
        adding = call("add")
        response = await client.post(adding)
        assert (response.status, response.message["id"]) == (500, adding["id"])
    assert "mcp-sessions answered 500: the app compresses its answers: put its compression in front" in caplog.text


@pytest.mark.parametrize("kind", ["sdk-sse", "fastmcp-sse"])  # in JSON mode one stream carries the questions of all
async def test_tools_that_ask_do_not_wait_for_each_other(start_worker: StartWorker, kind: str) -> None:
    """Ten questions at once are each answered by their own id, in any order."""
    client = await opened(await start_worker(kind))
    questions = [await Question.of(client, kind, f"Number {number}?") for number in range(10)]
    assert len({question.id for question in questions}) == 10
    for question in reversed(questions):
        assert (await client.post(yes(question.id))).status == 202
    assert await asyncio.gather(*(question.told() for question in questions)) == [
        f"accept: Number {number}?" for number in range(10)
    ]


async def test_app_in_json_mode_asks_on_the_standalone_stream(sqlite_url: str) -> None:
    """Roots and sampling, too, are asked for under ids of the layer's own."""
    layer = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with layer.lifespan(), browsing(layer) as browser:
        client = await opened(browser)
        listening = client.begin("GET")
        assert await listening.started() == 200
        calling = client.begin("POST", call("consult"))
        roots = await listening.asked("roots/list")
        found = {"roots": [{"uri": "file:///home"}]}
        assert (await client.post({"jsonrpc": "2.0", "id": roots["id"], "result": found})).status == 202
        sampling = await listening.asked("sampling/createMessage")
        said = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
        assert (await client.post({"jsonrpc": "2.0", "id": sampling["id"], "result": said})).status == 202
        assert (await calling.response()).message["result"]["content"][0]["text"] == "file:///home hi"
        assert isinstance(roots["id"], str)
        assert roots["id"].partition(".")[0] == sampling["id"].partition(".")[0]
