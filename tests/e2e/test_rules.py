"""The session rules on real sockets: what an HTTP server makes of headers, bodies and connections is part of them.

In process, ``tests/http`` goes through every case on every verb; here each rule is seen to hold once behind a server.
"""

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.digests import digest_of
from mcp_sessions.records.sessions import Owner
from tests.e2e.conftest import USUAL, Connect, Fleet
from tests.support.ageing import age
from tests.support.asgi import Response
from tests.support.mcp_client import ACCEPT, INITIALIZE, JSON, RawClient, call
from tests.support.mcp_servers import ISSUER
from tests.support.polling import until
from tests.support.sockets import SocketBrowser, SocketExchange

VERBS = ["POST", "GET", "DELETE"]
ADD = call("add", a=1, b=2)

Client = RawClient[SocketExchange]


@pytest.fixture
def browsers(fleet: Fleet, connect: Connect) -> list[SocketBrowser]:
    """Sockets to each worker."""
    return [connect(worker) for worker in fleet.workers]


@pytest.fixture
async def client(fleet: Fleet, browsers: list[SocketBrowser]) -> Client:
    """A client with a session that the first worker opened."""
    client = newcomer(fleet, browsers[0])
    await client.initialize()
    return client


def newcomer(fleet: Fleet, browser: SocketBrowser) -> Client:
    """A client without a session, let in by the workers."""
    return RawClient(browser, user="alice" if fleet.make.auth else None)


def seen(response: Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """An answer but for the moment that the server gave it."""
    return response.status, [pair for pair in response.raw_headers if pair[0] != b"date"], response.body


async def test_initialize_gives_an_unpredictable_id_that_is_stored_as_digest(
    fleet: Fleet, client: Client, browsers: list[SocketBrowser]
) -> None:
    """Rules 1, 2, 3, 11: the id is ours, random, visible ASCII, bound to the principal, and nowhere but here."""
    other = newcomer(fleet, browsers[1])
    await other.initialize()
    assert client.session_id is not None
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", client.session_id)
    assert client.session_id != other.session_id
    async with SessionManager.open(fleet.database_url) as manager:
        session = await manager.get_session_metadata(client.session_id)
    assert session is not None
    assert session.digest == digest_of(client.session_id)
    assert session.owner == (Owner("acme", "client-a", ISSUER, "alice") if fleet.make.auth else Owner())
    assert all(client.session_id not in worker.log for worker in fleet.workers)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"xyzzy", b"plugh"],
        [b"same", b"same"],
        [b"xyzzy, plugh"],
        [b"in side"],
        [b"in\tside"],
        [b"in\x01side"],
        [b"in\x7fside"],
        [b"latin-\xe9"],
        ["utf-ÿ".encode()],
        [b"x" * 257],
    ],
    ids=repr,
)
async def test_id_that_is_not_one_well_formed_value_gets_400(
    fleet: Fleet, browsers: list[SocketBrowser], values: list[bytes]
) -> None:
    """Rules 3, 4: missing, doubled, listed, over-long and raw bytes: 400 on each verb, and the value is not echoed."""
    client = newcomer(fleet, browsers[0])
    for verb in VERBS:
        response = await client.send(verb, ADD, *(("mcp-session-id", value) for value in values))
        assert response.status == 400
        assert not any(value in response.body for value in values if value)


async def test_ended_expired_unknown_and_foreign_get_the_same_404(
    fleet: Fleet, client: Client, browsers: list[SocketBrowser]
) -> None:
    """Rules 5, 7, 11, 12: on every worker and verb the same bytes, and an ended id never comes back."""
    expired, foreign = newcomer(fleet, browsers[0]), newcomer(fleet, browsers[0])
    await expired.initialize()
    await foreign.initialize()
    unknown = client.using(session_id="A" * 43)
    assert (await client.at(browsers[1]).send("DELETE")).status == 204
    await age(fleet.database_url, expired.session_id or "", timedelta(hours=1))
    refused = [client, expired, unknown]
    if fleet.make.auth:
        refused.append(foreign.using(user="other-subject"))
    for verb in VERBS:
        for browser in browsers:
            first, *others = [seen(await each.at(browser).send(verb, ADD)) for each in refused]
            assert first[0] == 404
            assert others == [first] * len(others)
    assert (await client.post(INITIALIZE)).status == 404
    assert await foreign.at(browsers[1]).call("add", a=1, b=2) == "3"


async def test_404_is_followed_by_a_new_session(client: Client) -> None:
    """Rule 6: who is told 404 starts anew, under another id."""
    former = client.session_id
    await client.send("DELETE")
    assert (await client.post(ADD)).status == 404
    client.session_id = None
    await client.initialize()
    assert client.session_id != former
    assert await client.call("add", a=1, b=2) == "3"


async def test_version_and_origin_are_the_apps_to_check(
    fleet: Fleet, client: Client, browsers: list[SocketBrowser]
) -> None:
    """Rules 8, 9: an unknown version and a foreign origin get the app's answer, also from a worker that restores."""
    of_foreign_origin = 403 if fleet.make.kind.startswith("sdk") else 200  # FastMCP checks it only when told to
    named = [*client.headers()[:-2], ("mcp-session-id", client.session_id or "")]
    for browser in browsers:
        wrong = await browser.request("GET", headers=[*named, ("mcp-protocol-version", "1999-01-01")])
        assert wrong.status in {400, 405}
        foreign = await client.at(browser).post(ADD, ("origin", "https://evil.example"))
        assert foreign.status == of_foreign_origin


@pytest.mark.parametrize("fleet", [make for make in USUAL if make.auth], ids=str, indirect=True, scope="session")
@pytest.mark.parametrize("verb", VERBS)
async def test_session_is_no_authentication(client: Client, verb: str) -> None:
    """Rule 10: the id alone opens nothing where the app wants a token, and a rotated token is as good as the first."""
    response = await client.using(user=None).send(verb, ADD)
    assert response.status == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert await client.using(user="alice-rotated").call("add", a=1, b=2) == "3"


async def test_dropped_connection_cancels_nothing(
    client: Client, browsers: list[SocketBrowser], tmp_path: Path
) -> None:
    """Rule 14: who hangs up in the middle of a call finds the work done and the session alive, on every worker."""
    working = client.begin("POST", call("work", folder=str(tmp_path)))
    await until((tmp_path / "begun").exists)
    await working.hang_up()
    assert await client.call("add", a=1, b=2) == "3"
    (tmp_path / "go on").touch()
    await until((tmp_path / "finished").exists)
    assert await client.at(browsers[1]).call("add", a=1, b=2) == "3"


async def test_dropped_stream_may_be_opened_again(client: Client) -> None:
    """Rule 14: a GET stream that broke off is opened again by its client."""
    stream = client.begin("GET")
    assert await stream.started() == 200
    await stream.hang_up()

    async def opens() -> bool:
        again = client.begin("GET")
        return await again.started() == 200

    await until(opens)  # the app allows one stream at a time, and has to notice first that the former is gone


async def test_delete_closes_streams_on_every_worker(client: Client, browsers: list[SocketBrowser]) -> None:
    """Rules 5, 7: streams of an ended session are closed on the worker that ends it and on the others."""
    streams = [client.at(browser).begin("GET") for browser in browsers]
    for stream in streams:
        assert await stream.started() == 200
    assert (await client.at(browsers[1]).send("DELETE")).status == 204
    for stream in streams:
        await stream.response()


async def test_stray_id_of_the_next_revision_is_ignored(
    fleet: Fleet, client: Client, browsers: list[SocketBrowser]
) -> None:
    """Rule 15: a request of revision 2026-07-28 is served whatever id stands in it, and gets none."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {**ADD, "params": {**ADD["params"], "_meta": meta}}
    headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "add")]
    for session_id in ("stray", "a,list", "in side"):
        response = await newcomer(fleet, browsers[0]).post(message, *headers, ("mcp-session-id", session_id))
        assert response.message["result"]["content"][0]["text"] == "3"
        assert "mcp-session-id" not in response.headers
    assert await client.call("add", a=1, b=2) == "3"


async def test_connection_is_kept_alive_through_refusals(client: Client, browsers: list[SocketBrowser]) -> None:
    """One connection carries requests that are served, refused and refused with a large body, each answered in turn."""
    (connection,) = browsers[0].idle
    before = connection.requests
    large = {**ADD, "params": {**ADD["params"], "_meta": {"filling": "x" * 1_000_000}}}
    for session_id, message, status in [
        (client.session_id, ADD, 200),
        ("unknown", ADD, 404),
        ("unknown", large, 404),
        (None, large, 400),
        ("in side", large, 400),
        (client.session_id, large, 200),
    ]:
        response = await client.using(session_id=session_id).post(message)
        assert response.status == status
        assert await client.call("add", a=2, b=2) == "4"
    assert browsers[0].idle == [connection]
    assert connection.requests == before + 12


async def test_body_may_come_in_drips(fleet: Fleet, client: Client) -> None:
    """A body in many pieces reaches the app whole, on a worker that has to restore first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.workers[1].port)
    try:
        lines = [b"POST /mcp HTTP/1.1", b"host: 127.0.0.1:%d" % fleet.workers[1].port, b"transfer-encoding: chunked"]
        lines += [f"{name}: {value!s}".encode() for name, value in client.headers()]
        writer.write(b"\r\n".join([*lines, b"", b""]))
        for byte in b'{"jsonrpc":"2.0","id":"drip","method":"ping"}':
            writer.write(b"1\r\n%c\r\n" % byte)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(10):
            assert b" 200 " in await reader.readline()
            await reader.readuntil(b'"drip"')
    finally:
        writer.close()
        await writer.wait_closed()


async def test_client_that_leaves_within_its_initialize_leaves_nothing(fleet: Fleet) -> None:
    """An initialize that breaks off in the middle of its body opens no session, and the worker goes on."""
    async with SessionManager.open(fleet.database_url) as manager:
        before = await manager.get_active_session_count()
        reader, writer = await asyncio.open_connection("127.0.0.1", fleet.workers[0].port)
        headers = "\r\n".join(f"{name}: {value}" for name, value in [ACCEPT, JSON, *fleet.headers.items()])
        writer.write(f'POST /mcp HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n{headers}\r\n\r\n{{"json'.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        assert await manager.get_active_session_count() == before


async def test_other_paths_are_the_apps_alone(client: Client) -> None:
    """What is not the MCP endpoint passes untouched, with any session id."""
    response = await client.using(path="/health", session_id="a,list").send("GET")
    assert (response.status, response.body) == (200, b"healthy")
