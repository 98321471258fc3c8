"""The session rules of the MCP specification, on every verb.

Revisions 2025-03-26, 2025-06-18 and 2025-11-25, Transports, Session Management; Security Best Practices, Session
Hijacking; for requests of revision 2026-07-28, SEP-2567.
"""

import asyncio
import json
import re
from base64 import urlsafe_b64encode

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import Receive, Scope, Send
from mcp_sessions.digests import digest_of
from tests.http.conftest import StartWorker
from tests.support.asgi import Browser, Response, browsing
from tests.support.managers import ON_SQLITE
from tests.support.mcp_client import ACCEPT, INITIALIZE, JSON, RawClient, call

VERBS = ["POST", "GET", "DELETE"]
ADD = call("add", a=1, b=2)

MALFORMED = {
    "empty": [b""],
    "two headers": [b"xyzzy", b"plugh"],
    "the same header twice": [b"xyzzy", b"xyzzy"],
    "list": [b"xyzzy,plugh"],
    "list with blanks": [b"xyzzy, plugh"],
    "blank inside": [b"xy zzy"],
    "tab inside": [b"xy\tzzy"],
    "control character": [b"xy\x01zzy"],
    "delete character": [b"xyzzy\x7f"],
    "latin-1": [b"xyzz\xe9"],
    "utf-8": ["xyzzÿ".encode()],
    "over-long": [b"x" * 257],
}


async def sessions_stored(database_url: str) -> int:
    """How many sessions the database holds."""
    async with SessionManager.open(database_url) as manager:
        return await manager.get_active_session_count()


def error_of(response: Response, request_id: int | None = None) -> dict[str, object]:
    """The JSON-RPC error of an answer that the client's parser has to understand, to the request with that id."""
    assert response.headers["content-type"] == "application/json"
    message = json.loads(response.body)
    assert message["jsonrpc"] == "2.0"
    assert message["id"] == request_id
    error: dict[str, object] = message["error"]
    return error


async def test_initialize_is_answered_with_a_session_id(start_worker: StartWorker, kind: str) -> None:
    """The answer to initialize carries an id of 256 random bits in visible ASCII, and none of the app's."""
    response = await RawClient(await start_worker(kind)).initialize()
    ids = [value for name, value in response.raw_headers if name == b"mcp-session-id"]
    assert [bool(re.fullmatch(rb"[A-Za-z0-9_-]{43}", value)) for value in ids] == [True]
    assert response.message["result"]["serverInfo"]["name"] == "notes"


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT"])
async def test_other_methods_tell_no_id_of_the_apps(client: RawClient, method: str) -> None:
    """What is no request of a session carries no session id, to the app or back."""
    assert client.session_id is not None
    for one in (client, client.using(session_id=None)):
        response = await one.send(method)
        assert "mcp-session-id" not in response.headers


async def test_each_session_has_an_id_of_its_own(worker: Browser) -> None:
    """A hundred sessions have a hundred ids."""
    clients = [RawClient(worker) for _ in range(100)]
    await asyncio.gather(*(client.initialize() for client in clients))
    assert len({client.session_id for client in clients}) == 100


async def test_every_answer_names_the_clients_session(client: RawClient) -> None:
    """What the app answers later carries the client's id, not the app's."""
    response = await client.post(ADD)
    assert response.headers["mcp-session-id"] == client.session_id


@pytest.mark.parametrize("verb", VERBS)
async def test_request_without_an_id_gets_400(worker: Browser, database_url: str, verb: str) -> None:
    """A request other than initialize without an id is refused, and nothing is created."""
    response = await RawClient(worker).send(verb, ADD if verb == "POST" else None)
    assert response.status == 400
    assert error_of(response, ADD["id"] if verb == "POST" else None)["code"] == -32600
    assert await sessions_stored(database_url) == 0


@ON_SQLITE  # no database is asked
@pytest.mark.parametrize("values", MALFORMED.values(), ids=list(MALFORMED))
async def test_malformed_id_gets_400(worker: Browser, values: list[bytes]) -> None:
    """An id that is not one well-formed value is refused on each verb and not repeated in the answer."""
    for verb in VERBS:
        response = await RawClient(worker).send(verb, ADD, *(("mcp-session-id", value) for value in values))
        assert response.status == 400
        error_of(response, ADD["id"] if verb == "POST" else None)
        assert all(value not in response.body for value in values if value)


@pytest.mark.parametrize("verb", VERBS)
async def test_ended_session_gets_404_on_every_worker(start_worker: StartWorker, verb: str) -> None:
    """After DELETE on one worker, every worker answers 404, also one that has served the session."""
    one, other = await start_worker(), await start_worker()
    client = RawClient(one)
    await client.initialize()
    assert await client.at(other).call("add", a=1, b=2) == "3"
    assert (await client.send("DELETE")).status == 204
    for worker in (one, other):
        assert (await client.at(worker).send(verb, ADD)).status == 404


async def test_initialize_with_an_unknown_or_ended_id_gets_404(client: RawClient, database_url: str) -> None:
    """An id that a client makes up is never adopted, and one that has ended never comes back."""
    await client.send("DELETE")
    for each in (client, client.using(session_id="made-up")):
        assert (await each.post(INITIALIZE)).status == 404
    assert await sessions_stored(database_url) == 0


@pytest.mark.parametrize("batch", [[INITIALIZE], [ADD, INITIALIZE]], ids=["alone", "with another"])
async def test_initialize_in_a_batch_gets_400(worker: Browser, database_url: str, batch: object) -> None:
    """An initialize inside a JSON-RPC batch is invalid and opens nothing."""
    response = await RawClient(worker).post(batch)
    assert response.status == 400
    assert "batch" in str(error_of(response)["message"])
    assert await sessions_stored(database_url) == 0


async def test_initialize_on_a_session_changes_nothing_for_other_workers(
    start_worker: StartWorker, kind: str, database_url: str
) -> None:
    """Initialize with the id of a live session is the app's to answer; the session stays as it was opened."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = RawClient(one)
    await client.initialize()
    digest = digest_of(client.session_id or "")
    again = {**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": "2025-06-18"}}
    async with SessionManager.open(database_url) as manager:
        before = await manager.get_handshake(digest)
        response = await client.post(again)
        assert response.message["result"]["protocolVersion"] == "2025-06-18"
        assert response.headers["mcp-session-id"] == client.session_id
        assert await manager.get_handshake(digest) == before
        assert await manager.get_active_session_count() == 1
    for worker in (one, other):
        assert await client.at(worker).call("add", a=1, b=2) == "3"


async def test_initialize_in_a_batch_on_a_session_gets_400(start_worker: StartWorker, kind: str) -> None:
    """The app refuses a batch with an initialize on a live session, which goes on."""
    client = RawClient(await start_worker(kind))
    await client.initialize()
    for batch in ([INITIALIZE], [ADD, INITIALIZE]):
        assert (await client.post(batch)).status == 400
    assert await client.call("add", a=1, b=2) == "3"


REFUSED = {
    "bad parameters": ({**INITIALIZE, "params": {}}, [ACCEPT, JSON]),
    "no parameters": ({"jsonrpc": "2.0", "id": 1, "method": "initialize"}, [ACCEPT, JSON]),
    "wrong accept": (INITIALIZE, [("accept", "text/plain"), JSON]),
    "wrong content type": (INITIALIZE, [ACCEPT, ("content-type", "text/plain")]),
    "foreign origin": (INITIALIZE, [ACCEPT, JSON, ("origin", "https://evil.example")]),
    "notification": ({"jsonrpc": "2.0", "method": "initialize", "params": INITIALIZE["params"]}, [ACCEPT, JSON]),
}


@pytest.mark.parametrize(("message", "headers"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("kind", ["sdk-json", "sdk-sse"])
async def test_refused_initialize_leaves_no_session(
    start_worker: StartWorker, database_url: str, kind: str, message: object, headers: list[tuple[str, str]]
) -> None:
    """Whatever the app refuses or fails, the client gets the app's word for it, no id, and nothing is stored."""
    worker = await start_worker(kind)
    response = await worker.request("POST", headers=headers, body=json.dumps(message).encode())
    assert "mcp-session-id" not in response.headers
    assert response.status >= 400 or "error" in response.message
    assert await sessions_stored(database_url) == 0


@pytest.mark.parametrize("session_id", ["unknown", "mal formed", None])
async def test_refused_request_reaches_no_tool(database_url: str, session_id: str | None) -> None:
    """An app that takes any session id, or none, is not given the message of a request that is refused."""
    messages: list[bytes] = []

    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        messages.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    app = DurableSessions(careless, database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        response = await RawClient(browser).using(session_id=session_id).post(ADD)
    assert response.status == (404 if session_id == "unknown" else 400)
    assert messages == [b""]


async def test_too_large_initialize_gets_413(start_worker: StartWorker, database_url: str) -> None:
    """An initialize over the bound is refused, and nothing is stored; one within it is not."""
    client = RawClient(await start_worker(max_remembered_body=1024))
    response = await client.post({**INITIALIZE, "filling": "x" * 1024})
    assert response.status == 413
    assert error_of(response, INITIALIZE["id"])["code"] == -32600
    assert await sessions_stored(database_url) == 0
    await client.initialize()


@pytest.mark.parametrize("verb", VERBS)
async def test_id_elsewhere_is_ignored(client: RawClient, verb: str) -> None:
    """An id in the URL, a cookie or the body names no session, and ends none."""
    session_id = client.session_id
    cookie = ("cookie", f"mcp-session-id={session_id}; Mcp-Session-Id={session_id}")
    in_body = {**ADD, "mcp-session-id": session_id, "sessionId": session_id}
    query = f"mcp-session-id={session_id}&Mcp-Session-Id={session_id}&sessionId={session_id}"
    for path in ("/mcp", f"/mcp?{query}"):
        elsewhere = client.using(session_id=None, path=path)
        assert (await elsewhere.send(verb, in_body, cookie)).status == 400
    assert await client.using(path=f"/mcp?{query}").call("add", a=1, b=2) == "3"


async def test_database_knows_only_the_digest(client: RawClient, database_url: str) -> None:
    """What is stored is the SHA-256 of the id, and it opens no session."""
    async with SessionManager.open(database_url) as manager:
        (session,) = await manager.list_sessions()
    assert client.session_id is not None
    assert session.digest == digest_of(client.session_id)
    for stolen in (session.digest.hex(), session.short_digest, urlsafe_b64encode(session.digest).decode().rstrip("=")):
        assert (await client.using(session_id=stolen).post(ADD)).status == 404


async def test_no_log_tells_an_id(start_worker: StartWorker, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens to a session, the package's log has its short digest and never the id, nor a malformed one."""
    caplog.set_level("DEBUG", "mcp_sessions")
    one, other = await start_worker(), await start_worker()
    client = RawClient(one)
    await client.initialize()
    await client.at(other).call("add", a=1, b=2)
    await client.send("DELETE")
    for session_id in (client.session_id, "made-up", "mal formed"):
        assert (await client.using(session_id=session_id).post(ADD)).status in {400, 404}
    told = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("mcp_sessions"))
    assert client.session_id is not None
    assert digest_of(client.session_id).hex()[:12] in told
    assert not any(session_id in told for session_id in (client.session_id, "made-up", "mal formed"))


async def test_client_delete_can_be_switched_off(start_worker: StartWorker) -> None:
    """With client_delete off, DELETE gets 405 and the session lives on."""
    client = RawClient(await start_worker(client_delete=False))
    await client.initialize()
    for session_id in (client.session_id, "unknown"):
        response = await client.using(session_id=session_id).send("DELETE")
        assert response.status == 405
        assert response.headers["allow"] == "GET, POST"
    assert await client.call("add", a=1, b=2) == "3"


async def test_later_revision_passes_untouched(worker: Browser, database_url: str) -> None:
    """A request of revision 2026-07-28 reaches the app as it is, a stray id is ignored and none is given."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": "add", "arguments": {"a": 1, "b": 2}, "_meta": meta}
    headers = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "add"),
        ("mcp-session-id", "stray"),
    ]
    response = await RawClient(worker).post({**ADD, "params": params}, *headers)
    assert response.status == 200
    assert response.message["result"]["content"][0]["text"] == "3"
    assert "mcp-session-id" not in response.headers
    assert await sessions_stored(database_url) == 0


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_later_revision_touches_no_session(client: RawClient, verb: str) -> None:
    """A request of revision 2026-07-28 that names a live session has nothing to do with it: no DELETE ends it."""
    named = [ACCEPT, ("mcp-session-id", client.session_id or ""), ("mcp-protocol-version", "2026-07-28")]
    response = await client.using(session_id=None).send(verb, None, *named)
    assert response.status in {400, 405}
    assert "mcp-session-id" not in response.headers
    assert await client.call("add", a=1, b=2) == "3"


@pytest.mark.parametrize(("verb", "status"), [("POST", 400), ("GET", 405), ("DELETE", 405)])
async def test_invalid_protocol_version_is_the_apps_to_refuse(
    start_worker: StartWorker, verb: str, status: int
) -> None:
    """An MCP-Protocol-Version that the app does not know gets the app's word, also where it restores first."""
    one, other = await start_worker(), await start_worker()
    client = RawClient(one)
    await client.initialize()
    headers = [ACCEPT, JSON, ("mcp-session-id", client.session_id or ""), ("mcp-protocol-version", "1999-01-01")]
    for worker in (one, other):
        response = await worker.request(verb, headers=headers, body=json.dumps(ADD).encode())
        assert response.status == status
        if verb == "POST":
            assert response.message["id"] == ADD["id"]  # the layer's own errors have none
        else:
            assert response.headers["allow"] == "POST"  # the layer's own allows more
    assert await client.call("add", a=1, b=2) == "3"


@pytest.mark.parametrize("verb", VERBS)
async def test_foreign_origin_is_the_apps_to_refuse(client: RawClient, start_worker: StartWorker, verb: str) -> None:
    """A forbidden Origin gets the app's 403, also where the session has to be restored, and ends nothing."""
    origin = ("origin", "https://evil.example")
    assert (await client.send(verb, ADD, origin)).status == 403
    assert (await client.at(await start_worker()).send(verb, ADD, origin)).status == 403
    assert await client.call("add", a=1, b=2) == "3"


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_other_paths_pass_untouched(client: RawClient, verb: str) -> None:
    """A path that is not the MCP endpoint is the app's alone, whatever headers come with it."""
    response = await client.using(path="/health").send(verb, INITIALIZE)
    assert (response.status, response.body) == (200, b"healthy")
    assert "mcp-session-id" not in response.headers
