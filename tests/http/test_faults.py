"""A fault of the database says nothing about a session: 503 in bounded time, never 404, and healthy by itself after."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions.asgi import DurableSessions
from tests.support.asgi import Response, browsing
from tests.support.mcp_client import INITIALIZE, RawClient, call
from tests.support.mcp_servers import GATES, Gate, sdk_app
from tests.support.polling import until
from tests.support.postgres import PostgresServer

ADD = call("add", a=1, b=2)


def is_fault(response: Response) -> bool:
    """Whether an answer is the 503 that a client may try again after."""
    return (
        response.status == 503
        and int(response.headers["retry-after"]) >= 1
        and response.message["error"]["code"] == -32603
        and "mcp-session-id" not in response.headers
    )


def worker_on(database_url: str, **settings: Any) -> DurableSessions:
    """A worker that waits a second for its database."""
    second = timedelta(seconds=1)
    settings = {"connect_timeout": second, "statement_timeout": second, **settings}
    return DurableSessions(
        sdk_app(json=True), database_url=database_url, check_interval=timedelta(milliseconds=100), **settings
    )


@pytest.fixture
def app(postgres_url: str) -> DurableSessions:
    """A worker on Postgres."""
    return worker_on(postgres_url)


@pytest.fixture
def outage(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The database server, which runs again after the test."""
    yield postgres_server
    postgres_server.thaw()
    postgres_server.start()


@pytest.mark.parametrize("failure", ["stop", "freeze"])
@pytest.mark.slow
async def test_outage_gets_503_on_every_verb_and_heals(
    app: DurableSessions, outage: PostgresServer, failure: str
) -> None:
    """While the database is stopped or does not answer, every request gets 503; then all is as before."""
    async with app.lifespan(), browsing(app) as browser:
        client, newcomer = RawClient(browser), RawClient(browser)
        await client.initialize()
        await asyncio.to_thread(getattr(outage, failure))
        requests = [client.send("POST", ADD), client.send("GET"), client.send("DELETE"), newcomer.post(INITIALIZE)]
        for response in await asyncio.gather(*requests):
            assert is_fault(response)
        await asyncio.to_thread(outage.thaw)
        await asyncio.to_thread(outage.start)
        assert await client.call("add", a=1, b=2) == "3"
        await newcomer.initialize()


async def test_locked_file_gets_503_from_what_writes_and_heals(sqlite_url: str) -> None:
    """While another process keeps the SQLite file locked, what has to write gets 503 in time; what reads is served."""
    writing = worker_on(sqlite_url, sqlite_busy_timeout=timedelta(milliseconds=200), touch_interval=timedelta(0))
    reading = worker_on(sqlite_url)
    async with writing.lifespan(), reading.lifespan(), browsing(writing) as writer, browsing(reading) as reader:
        client, newcomer = RawClient(writer), RawClient(writer)
        await client.initialize()
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            requests = [client.send("POST", ADD), client.send("GET"), client.send("DELETE"), newcomer.post(INITIALIZE)]
            async with asyncio.timeout(3):
                for response in await asyncio.gather(*requests):
                    assert is_fault(response)
            assert await client.at(reader).call("add", a=1, b=2) == "3"
        assert await client.call("add", a=1, b=2) == "3"
        await newcomer.initialize()
        assert (await client.send("DELETE")).status == 204


async def test_overload_gets_503_at_once(
    postgres_url: str, outage: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests beyond those that may wait for the database are turned away with 503 while the others wait."""
    app = worker_on(postgres_url, max_queued=1, statement_timeout=timedelta(seconds=5))
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        outage.freeze()
        requests = [client.begin("POST", call("add", a=1, b=2)) for _ in range(3)]
        await until(lambda: any(each.ended for each in requests))
        turned_away = [each for each in requests if each.ended]
        waiting = [each for each in requests if not each.ended]
        assert all([is_fault(await each.response()) for each in turned_away])
        assert caplog.text.count("is overloaded") == len(turned_away)
        outage.thaw()
        assert [(await each.response()).status for each in waiting] == [200] * len(waiting)
        assert waiting


async def test_outage_ends_no_stream(
    app: DurableSessions, outage: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An open stream and a request in flight outlive an outage."""
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        GATES["outage"] = gate = Gate()
        stream = client.begin("GET")
        assert await stream.started() == 200
        waiting = client.begin("POST", call("wait", gate="outage"))
        await gate.reached.wait()
        await asyncio.to_thread(outage.stop)
        await until(lambda: "live sessions not checked" in caplog.text)
        await asyncio.to_thread(outage.start)
        gate.opened.set()
        assert (await waiting.response()).status == 200
        assert not stream.ended


async def test_failed_store_leaves_nothing_in_the_app(postgres_url: str, outage: PostgresServer) -> None:
    """An initialize that cannot be stored gets 503, and the app's own session is ended again."""
    app = DurableSessions(sdk_app(json=True, max_sessions=1), database_url=postgres_url)
    async with app.lifespan(), browsing(app) as browser:
        await asyncio.to_thread(outage.stop)
        for _ in range(3):
            assert is_fault(await RawClient(browser).post(INITIALIZE))
        await asyncio.to_thread(outage.start)
        await RawClient(browser).initialize()
