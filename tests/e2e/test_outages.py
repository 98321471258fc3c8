"""The database goes away under load, and comes back: 503 in between, and healthy by itself."""

import asyncio
from functools import partial

import pytest

from tests.e2e.conftest import Connect, StartWorkers
from tests.support.load import Load
from tests.support.mcp_client import RawClient, call
from tests.support.polling import until
from tests.support.postgres import PostgresServer
from tests.support.sockets import SocketExchange

BOUND = 12
"""Seconds, where a statement and a connection may take one each: a request may have to wait for the batch before its
own, and either may meet a connection that takes two more seconds to give up."""


@pytest.mark.slow
async def test_outage_is_503_and_heals_by_itself(
    start_workers: StartWorkers, connect: Connect, postgres_url: str, postgres_server: PostgresServer
) -> None:
    """While the database is stopped or frozen every answer is a 503 in bounded time; then all is as before."""
    workers = start_workers(2, postgres_url, connect_timeout=1, statement_timeout=1)
    patients = [RawClient(connect(worker)) for worker in workers]
    for patient in patients:
        await patient.initialize()
    load = Load([worker.port for worker in workers], faults_in=["failing", "stopped", "frozen", "mending"])
    async with load.running():
        for failure, fail in [("stopped", postgres_server.stop), ("frozen", postgres_server.freeze)]:
            await load.answered(100, "healthy")
            load.phase = "failing"
            await asyncio.to_thread(fail)
            await load.answered(12, failure)
            load.phase = "mending"
            await asyncio.to_thread(postgres_server.thaw)
            await asyncio.to_thread(postgres_server.start)
            for patient in patients:
                await until(partial(is_served, patient), patience=BOUND)
        await load.answered(100, "healthy")
    await load.check_promises()
    assert load.wrong == []
    assert set(load.in_phase("stopped")) == set(load.in_phase("frozen")) == {503}
    assert 503 not in load.in_phase("healthy")
    assert max(load.slowest["stopped"], load.slowest["frozen"]) <= BOUND
    assert load.cuts == 0


async def is_served(client: RawClient[SocketExchange]) -> bool:
    """Whether a call is answered, after a fault or right away."""
    response = await client.post(call("add", a=1, b=2))
    assert response.status in {200, 503}
    return response.status == 200
