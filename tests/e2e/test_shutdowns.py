"""SIGTERM: a worker finishes what it has begun, takes nothing new, and ends no session."""

import asyncio
from pathlib import Path

import pytest

from mcp_sessions.asgi import DurableSessions
from tests.e2e.conftest import Connect, StartWorkers
from tests.support.asgi import browsing
from tests.support.load import Load
from tests.support.mcp_client import RawClient, call
from tests.support.mcp_servers import APPS
from tests.support.polling import until
from tests.support.sockets import ConnectionCutError, SocketExchange

KINDS = [
    "sdk-json",
    "sdk-sse",
    pytest.param("fastmcp-json", marks=pytest.mark.long),
    pytest.param("fastmcp-sse", marks=pytest.mark.long),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_stopped_worker_finishes_what_it_has_begun(
    start_workers: StartWorkers, connect: Connect, sqlite_url: str, tmp_path: Path, kind: str
) -> None:
    """A call in flight is answered, an open stream ends, new requests are turned away, another worker takes over."""
    (leaving,) = start_workers(1, sqlite_url, kind, drain_on_signal=True)
    client = RawClient(connect(leaving))
    await client.initialize()
    stream = client.begin("GET")
    assert await stream.started() == 200
    working = client.begin("POST", call("work", folder=str(tmp_path)))
    await until((tmp_path / "begun").exists)
    leaving.begin_to_stop()
    await stream.response()
    await until(lambda: is_turned_away(client.at(connect(leaving))))
    assert not working.ended
    (tmp_path / "go on").touch()
    assert (await working.response()).message["result"]["content"][0]["text"] == "worked"
    await asyncio.to_thread(leaving.wait_until_stopped, seconds=10)
    assert leaving.first_traceback == ""
    assert await is_served_elsewhere(client, sqlite_url, kind)


async def is_served_elsewhere(client: RawClient[SocketExchange], database_url: str, kind: str) -> bool:
    """Whether another worker, in this process, serves the client's session."""
    app = DurableSessions(APPS[kind](), database_url=database_url)
    async with app.lifespan(), browsing(app) as browser:
        moved = RawClient(browser)
        moved.session_id = client.session_id
        return bool(await moved.call("add", a=1, b=2) == "3")


async def is_turned_away(client: RawClient[SocketExchange]) -> bool:
    """Whether a request gets no connection, or a 503."""
    try:
        response = await client.post(call("add", a=1, b=2))
    except ConnectionCutError:
        return True
    return response.status == 503


@pytest.mark.slow
async def test_stopped_worker_waits_no_longer_than_its_bound(
    start_workers: StartWorkers, connect: Connect, sqlite_url: str, tmp_path: Path
) -> None:
    """A call that does not end in time is given up with 503; the worker stops, and the session lives on."""
    (leaving,) = start_workers(1, sqlite_url, drain_timeout=1)
    client = RawClient(connect(leaving))
    await client.initialize()
    working = client.begin("POST", call("work", folder=str(tmp_path)))
    await until((tmp_path / "begun").exists)
    leaving.begin_to_stop()
    await asyncio.to_thread(leaving.wait_until_stopped, seconds=8)
    response = await working.response()
    assert response.status == 503
    assert "retry-after" in response.headers
    assert not (tmp_path / "finished").exists()
    assert await is_served_elsewhere(client, sqlite_url, "sdk-json")


@pytest.mark.slow
async def test_rolling_restart_under_load_loses_nothing(start_workers: StartWorkers, postgres_url: str) -> None:
    """Workers that are stopped in order and started again, one after the other, break no promise to any client."""
    workers = start_workers(2, postgres_url, drain_on_signal=True)
    load = Load([worker.port for worker in workers], faults_in=["restarting"])
    async with load.running(clients=6):
        await load.answered(50, "before")
        for worker in workers:
            load.phase = "restarting"
            worker.begin_to_stop()
            await asyncio.to_thread(worker.wait_until_stopped, seconds=20)
            await asyncio.to_thread(worker.start)
            await load.answered(50, "between")
    await load.check_promises()
    assert load.wrong == []
    assert [worker.first_traceback for worker in workers] == [""] * len(workers)
