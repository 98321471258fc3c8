"""``SqlStore`` where FastMCP keeps what outlives a request: its OAuth proxy's clients and tokens, cached responses."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from fastmcp import FastMCP
from fastmcp.server.auth.oauth_proxy import OAuthProxy
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.server.middleware.caching import ResponseCachingMiddleware

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.keyvalue import SqlStore
from tests.support.asgi import Browser, Response, browsing
from tests.support.mcp_client import RawClient
from tests.support.rows import Rows

pytestmark = pytest.mark.slow

BASE = "http://127.0.0.1:8000"
CLIENT_CALLBACK = "http://127.0.0.1:33418/callback"
TOKEN = "a token of the provider, which the client never sees"  # noqa: S105 - of this test alone
ALICE = {"client_id": "alice", "sub": "alice", "scopes": ["notes"]}
VERIFIER = "a verifier that only the client knows, of forty-three characters"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
KEY = base64.b64encode(bytes(32)).decode()

StartWorker = Callable[[FastMCP[Any]], Awaitable[Browser]]


@dataclass
class Upstream:
    """The identity provider behind the proxy: a loopback server that gives alice's token for any code."""

    port: int = 0
    asked: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        """Serve the token endpoint."""
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        self.asked += 1
        body = json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n")
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """An identity provider."""
    async with Upstream().running() as running:
        yield running


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is closed after the test."""
    async with AsyncExitStack() as stack:
        yield stack


async def started(stack: AsyncExitStack, url: str, server: FastMCP[Any]) -> Browser:
    """Start a worker with a server of its own."""
    app = DurableSessions(server, database_url=url)
    await stack.enter_async_context(app.lifespan())
    return await stack.enter_async_context(browsing(app))


async def guarded(stack: AsyncExitStack, url: str, upstream: Upstream) -> Browser:
    """Start a worker behind FastMCP's OAuth proxy, whose memory is the database."""
    store = await stack.enter_async_context(SqlStore(database_url=url, encryption_keys=KEY))
    proxy = OAuthProxy(
        upstream_authorization_endpoint=f"http://127.0.0.1:{upstream.port}/authorize",
        upstream_token_endpoint=f"http://127.0.0.1:{upstream.port}/token",
        upstream_client_id="the proxy",
        upstream_client_secret="a secret of the proxy",  # noqa: S106 - of an identity provider in this test
        token_verifier=StaticTokenVerifier({TOKEN: ALICE}, required_scopes=["notes"]),
        base_url=BASE,
        client_storage=store,
        jwt_signing_key=bytes(32),
        require_authorization_consent="external",  # the question to the user is no matter of storage
    )
    server: FastMCP[Any] = FastMCP("guarded", auth=proxy)

    @server.tool
    def add(a: int, b: int) -> int:
        return a + b

    return await started(stack, url, server)


async def registered(worker: Browser) -> str:
    """Register a client, and return its id."""
    metadata = {
        "client_name": "notes",
        "redirect_uris": [CLIENT_CALLBACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }
    headers = {"content-type": "application/json"}
    response = await worker.request("POST", "/register", headers=headers, body=json.dumps(metadata).encode())
    assert response.status == 201, response
    return str(response.message["client_id"])


def sent_to(response: Response) -> tuple[str, dict[str, str]]:
    """Return where a response sends the browser of the user, and with what."""
    assert response.status in {302, 307}, response
    place = urlsplit(response.headers["location"])
    return place._replace(query="").geturl(), dict(parse_qsl(place.query))


async def authorized(worker: Browser, client_id: str) -> str:
    """Ask for authorization, and return the state that the identity provider is given."""
    question = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": CLIENT_CALLBACK,
        "state": "the client's own",
        "scope": "notes",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    place, given = sent_to(await worker.request("GET", f"/authorize?{urlencode(question)}"))
    assert place.endswith("/authorize")
    return given["state"]


async def exchanged(worker: Browser, client_id: str, code: str) -> Response:
    """Exchange the client's code for tokens."""
    form = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": code,
        "redirect_uri": CLIENT_CALLBACK,
        "code_verifier": VERIFIER,
    }
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await worker.request("POST", "/token", headers=headers, body=urlencode(form).encode())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that the proxy is made of
async def test_an_oauth_proxy_is_the_same_on_every_worker(database_url: str, upstream: Upstream) -> None:
    """Each step of an authorization at another worker, over a restart; a code is taken once; nothing lies open."""
    async with AsyncExitStack() as stack:
        one, other = [await guarded(stack, database_url, upstream) for _ in range(2)]
        client_id = await registered(one)
        state = await authorized(other, client_id)
        answer = urlencode({"code": "of the provider", "state": state})
        place, given = sent_to(await one.request("GET", f"/auth/callback?{answer}"))
        assert (place, given["state"], upstream.asked) == (CLIENT_CALLBACK, "the client's own", 1)
        tokens = await exchanged(other, client_id, given["code"])
        assert tokens.status == 200, tokens
        again = await exchanged(one, client_id, given["code"])
        assert (again.status, again.message["error"]) == (401, "invalid_grant")
        client = RawClient(one, user=tokens.message["access_token"])
        await client.initialize()
        assert await client.at(other).call("add", a=1, b=2) == "3"
    stored = repr(await Rows(database_url).fetch("SELECT * FROM key_values"))
    for secret in (client_id, TOKEN, given["code"], CLIENT_CALLBACK):
        assert secret not in stored
    async with AsyncExitStack() as stack:
        later = await guarded(stack, database_url, upstream)
        assert await client.at(later).call("add", a=3, b=4) == "7"
        assert await authorized(later, client_id)
        stranger = RawClient(later, user=f"{client.user}x").using(session_id=client.session_id)
        assert (await stranger.send("GET")).status == 401


async def test_responses_are_cached_for_every_worker(database_url: str, stack: AsyncExitStack) -> None:
    """What a tool has answered at one worker is answered by another without running it, until its time is over."""
    ran: list[str] = []

    async def worker() -> Browser:
        store = await stack.enter_async_context(SqlStore(database_url=database_url))
        server: FastMCP[Any] = FastMCP("cached", middleware=[ResponseCachingMiddleware(cache_storage=store)])

        @server.tool
        def look_up(word: str) -> str:
            ran.append(word)
            return f"{word} for the {len(ran)}. time"

        return await started(stack, database_url, server)

    one, other = await worker(), await worker()
    client = RawClient(one)
    await client.initialize()
    for each in (one, other, await worker(), one):
        assert await client.at(each).call("look_up", word="apple") == "apple for the 1. time"
    assert await client.at(other).call("look_up", word="pear") == "pear for the 2. time"
    rows = Rows(database_url)
    past = "'2000-01-01 00:00:00.000'" if rows.on_sqlite else "'2000-01-01'"
    await rows.execute(f"UPDATE key_values SET expires_at = {past}")
    assert await client.at(other).call("look_up", word="apple") == "apple for the 3. time"
    assert ran == ["apple", "pear", "apple"]
