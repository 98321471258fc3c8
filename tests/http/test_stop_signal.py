"""What the layer does at a signal, before the server ends the lifespan: `drain_on_signal`."""

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_sessions import Owner
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.types import Scope
from tests.support.asgi import browsing
from tests.support.mcp_client import RawClient, call
from tests.support.mcp_servers import GATES, Gate, sdk_app
from tests.support.polling import until


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def number(request: pytest.FixtureRequest) -> signal.Signals:
    """Each signal that tells a server to stop."""
    given: signal.Signals = request.param
    return given


@pytest.fixture
def told(number: signal.Signals) -> Iterator[list[int]]:
    """The signals that the server's own handler has seen."""
    seen: list[int] = []

    def note(seen_number: int, _frame: Any) -> None:
        seen.append(seen_number)

    before = signal.signal(number, note)
    yield seen
    assert signal.signal(number, before) is note  # nothing of the layer is left


async def test_streams_end_and_answers_do_not(sqlite_url: str, number: signal.Signals, told: list[int]) -> None:
    """At the signal streams end and no new one begins; a request in flight and one that comes later are answered."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, drain_on_signal=True)
    GATES["stop"] = gate = Gate()
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        stream = client.begin("GET")
        await stream.started()
        waiting = client.begin("POST", call("wait", gate="stop"))
        await gate.reached.wait()
        signal.raise_signal(number)
        await stream.response()
        assert told == [number]
        refused = await client.send("GET")
        later = await client.post(call("add", a=1, b=2))
        gate.opened.set()
        waited = await waiting.response()
        assert [answer.status for answer in (refused, later, waited)] == [503, 200, 200]
        assert [answer.headers["connection"] for answer in (refused, later, waited)] == ["close"] * 3


async def test_streams_that_are_about_to_begin_do_not(sqlite_url: str) -> None:
    """A stream that is let in, but has not begun when streams end, is refused."""
    gate = Gate()

    async def owner(scope: Scope) -> Owner:
        if scope["method"] == "GET":
            await gate.passed()
        return Owner()

    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, owner=owner)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        stream = client.begin("GET")
        await gate.reached.wait()
        draining = asyncio.create_task(app.drain())
        await asyncio.sleep(0)  # it has begun
        gate.opened.set()
        assert (await stream.response()).status == 503
        await draining


async def test_nothing_happens_unless_it_is_asked_for(sqlite_url: str, number: signal.Signals, told: list[int]) -> None:
    """By default the layer leaves signals alone: a stream goes on."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        client = RawClient(browser)
        await client.initialize()
        stream = client.begin("GET")
        await stream.started()
        signal.raise_signal(number)
        await until(lambda: told == [number])
        assert (await client.send("GET")).status == 409  # the app's word for a second stream beside an open one


async def test_signals_that_nobody_handles_stay_so(sqlite_url: str) -> None:
    """Where the server handles no signal, the layer does not either: the process can be ended as before."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, drain_on_signal=True)
        async with app.lifespan():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_other_threads_are_left_alone(sqlite_url: str) -> None:
    """An app that is served in another thread than the main one, which alone may handle signals, starts."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, drain_on_signal=True)

    async def started() -> bool:
        async with app.lifespan():
            return True

    assert await asyncio.to_thread(lambda: asyncio.run(started()))


async def test_a_worker_is_not_ready_from_the_signal_on(
    sqlite_url: str, number: signal.Signals, told: list[int]
) -> None:
    """At the signal, long before the server ends the lifespan, `/readyz` says that the worker drains."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, drain_on_signal=True, health=True)
    async with app.lifespan(), browsing(app) as browser:
        assert (await browser.request("GET", "/readyz")).status == 200
        signal.raise_signal(number)
        assert told == [number]
        response = await browser.request("GET", "/readyz")
        assert (response.status, response.body) == (503, b'{"status":"unavailable","failed":"draining"}')
        assert (await browser.request("GET", "/healthz")).status == 200
