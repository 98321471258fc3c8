"""Workers that are killed hard under load: what was acknowledged holds, and nobody is told what is not true."""

import asyncio

import pytest

from tests.e2e.conftest import Connect, StartWorkers
from tests.support.load import Load
from tests.support.mcp_client import RawClient

CLIENTS = 6
CHANGED = b"notifications/resources/list_changed"
QUICK, THOROUGH = 3, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(900)])


@pytest.mark.parametrize("kills", [QUICK, THOROUGH])
@pytest.mark.slow
async def test_killed_workers_lose_and_forge_nothing(
    start_workers: StartWorkers, postgres_url: str, kills: int
) -> None:
    """No acknowledged session is lost, no ended one served; each request is answered rightly or its connection cut."""
    workers = start_workers(2, postgres_url)
    load = Load([worker.port for worker in workers])
    async with load.running(clients=CLIENTS):
        for number in range(kills):
            await load.answered(50)
            victim = workers[number % len(workers)]
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
        await load.answered(50)
    await load.check_promises()
    assert load.wrong == []
    assert load.cuts >= kills
    assert load.open_sessions >= CLIENTS
    assert load.ended_sessions >= kills
    assert [worker.first_traceback for worker in workers] == [""] * len(workers)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.slow
async def test_many_sessions_come_back_at_once_after_a_restart(
    start_workers: StartWorkers, connect: Connect, postgres_url: str, count: int
) -> None:
    """All clients of a worker that was killed come back in the same moment: all are served, each restored once."""
    (worker,) = start_workers(1, postgres_url)
    browser = connect(worker)
    clients = [RawClient(browser) for _ in range(count)]
    await asyncio.gather(*(client.initialize() for client in clients))
    await asyncio.to_thread(worker.restart)
    browser = connect(worker)
    answers = await asyncio.gather(*(client.at(browser).call("add", a=1, b=2) for client in clients))
    assert answers == ["3"] * count
    assert len(worker.restored) == len(set(worker.restored)) == count


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
@pytest.mark.slow
async def test_a_client_listens_on_where_its_worker_was_killed(
    start_workers: StartWorkers, connect: Connect, postgres_url: str, kills: int
) -> None:
    """Calls elsewhere go on as nobody hears; the stream that is opened anew hears the workers that live."""
    killed, other = start_workers(2, postgres_url)
    client = RawClient(connect(other))
    await client.initialize()
    stream = client.begin("GET")
    assert await stream.started() == 200
    for number in range(kills):
        if number:
            await asyncio.to_thread(killed.start)
            assert await client.at(connect(killed)).call("announce") == "announced"
            await stream.received(CHANGED)
        there = client.at(connect(killed)).begin("GET")
        assert await there.started() == 200
        assert await client.call("announce") == "announced"
        await there.received(CHANGED)
        await asyncio.to_thread(killed.kill)
        assert await client.call("announce") == "announced"
        stream = client.begin("GET")
        assert await stream.started() == 200
    assert await client.call("announce") == "announced"
    await stream.received(CHANGED)
    assert stream._body.count(CHANGED) == 1
    assert [worker.first_traceback for worker in (killed, other)] == ["", ""]
