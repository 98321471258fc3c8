"""Recorded handshakes that are sealed: workers with the key restore sessions, and one without it throws none away."""

import base64

from tests.http.conftest import StartWorker
from tests.support.mcp_client import RawClient, call

KEY, OTHER = (base64.b64encode(bytes([n]) * 32).decode() for n in range(2))


async def test_a_worker_restores_what_another_one_sealed(start_worker: StartWorker, kind: str) -> None:
    """A worker with the key, at whatever place among its keys, serves a session whose handshake was sealed with it."""
    client = RawClient(await start_worker(kind, encryption_keys=KEY))
    await client.initialize()
    assert await client.at(await start_worker(kind, encryption_keys=[OTHER, KEY])).call("add", a=1, b=2) == "3"


async def test_a_worker_without_the_key_answers_503(start_worker: StartWorker) -> None:
    """Where the key is missing the client is told to try again, never that there is no such session; it goes on."""
    one = await start_worker(encryption_keys=KEY)
    client = RawClient(one)
    await client.initialize()
    for keys in (None, OTHER):
        response = await client.at(await start_worker(encryption_keys=keys)).post(call("add", a=1, b=2))
        assert response.status == 503
        assert "retry-after" in response.headers
    assert await client.at(one).call("add", a=1, b=2) == "3"
