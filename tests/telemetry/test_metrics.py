"""What is measured, and that no number costs a request or names anybody."""

import asyncio
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import get_meter
from opentelemetry.sdk.metrics import MeterProvider

from mcp_sessions import ConfigurationError, Owner, SessionManager
from mcp_sessions.digests import digest_of
from mcp_sessions.instruments import NOBODY
from mcp_sessions.messages.mailbox import Mailbox
from mcp_sessions.settings import load_settings
from mcp_sessions.telemetry import live
from mcp_sessions.telemetry.deferred import DeferredRecords
from tests.support.mcp_client import INITIALIZE, RawClient
from tests.support.polling import until
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows
from tests.telemetry.conftest import Seen, worker_on


async def test_life_of_sessions_is_counted(database_url: str, seen: Seen) -> None:
    """Creations, uses, refusals and ends of each kind are counted; a life that ended has a duration."""
    async with SessionManager.open_with(
        load_settings(database_url=database_url), instruments=seen.instruments
    ) as manager:
        ids = [await manager.create_session(tenant_id="acme") for _ in range(5)]
        owner = Owner(tenant_id="acme")
        assert await manager.resume_session(ids[0], owner)
        assert await manager.resume_session(ids[0], Owner()) is None
        await manager.terminate_session(ids[0])
        await Rows(database_url).age(ids[1], timedelta(days=1))
        await manager.cleanup_stale_sessions()
        await manager.terminate_sessions(tenant_id="acme")
        await manager.create_session()
        await manager.clear_all_sessions()
    assert [seen.value(f"mcp_sessions.session.{what}") for what in ("created", "resumed", "refused")] == [6, 1, 1]
    kinds = ("terminated", "expired", "revoked", "cleared")
    assert [seen.value("mcp_sessions.session.ended", kind) for kind in kinds] == [1, 1, 3, 1]
    assert seen.metric("mcp.server.session.duration")[()].count == 1
    assert seen.value("mcp_sessions.cleanup.runs", "done") == 1
    assert seen.value("mcp_sessions.cleanup.removed", "sessions") == 1


async def test_batches_tell_their_size_and_their_wait(database_url: str, seen: Seen) -> None:
    """Of calls that are made together, runs, calls and waits are counted by kind of call."""
    async with SessionManager.open_with(
        load_settings(database_url=database_url), instruments=seen.instruments
    ) as manager:
        await asyncio.gather(*(manager.create_session() for _ in range(50)))
    assert seen.value("mcp_sessions.batch.calls", "create_session") == 50
    assert 1 <= seen.value("mcp_sessions.batch.runs", "create_session") < 50
    assert 0 <= seen.value("mcp_sessions.batch.wait", "create_session") < 10


async def test_requests_are_measured_by_method_and_status(sqlite_url: str, seen: Seen) -> None:
    """Each request has a duration by status, and each operation of MCP one by its method."""
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        await client.initialize()
        assert await client.call("add", a=1, b=2) == "3"
        client.session_id = "unknown"
        assert (await client.send("DELETE")).status == 404
    requests = seen.metric("http.server.request.duration")
    assert {key[:2] for key in requests} == {("POST", 200), ("POST", 202), ("DELETE", 404)}
    assert all(0 < point.sum < 10 for point in requests.values())
    operations = {key: point.count for key, point in seen.metric("mcp.server.operation.duration").items()}
    assert operations == {("initialize",): 1, ("notifications/initialized",): 1, ("tools/call",): 1}


async def test_no_word_of_a_clients_becomes_an_attribute(sqlite_url: str, seen: Seen) -> None:
    """Methods that nobody knows, of HTTP and of MCP, are all one; malformed and deep bodies are served as ever."""
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        await client.initialize()
        for nth in range(3):
            await client.post({"jsonrpc": "2.0", "id": nth, "method": f"secret/{nth}", "params": {"_meta": nth}})
            await browser.request(f"BREW{nth}")
        for body in (b"{", b"[" * 50_000, b"\xff", b'{"method": ["tools/call"]}', b'{"params": 1}', b"[1]"):
            status = (await browser.request("POST", body=body)).status
            assert 400 <= status < 500
    methods = {key[0] for key in seen.metric("http.server.request.duration")}
    assert methods == {"POST", "_OTHER"}
    told = {value for key in seen.metric("mcp.server.operation.duration") for value in key}
    assert told <= {"initialize", "notifications/initialized", "_OTHER", *map(str, range(400, 500))}


async def test_restores_are_timed(sqlite_url: str, seen: Seen) -> None:
    """A session that another worker opened is restored, and how long that took is measured."""
    async with worker_on(sqlite_url, seen) as first, worker_on(sqlite_url, seen) as second:
        client = RawClient(first)
        await client.initialize()
        elsewhere = RawClient(second)
        elsewhere.session_id = client.session_id
        assert await elsewhere.call("add", a=1, b=2) == "3"
    assert seen.metric("mcp_sessions.session.restore.duration")[("restored",)].count == 1


async def test_messages_between_workers_are_counted(database_url: str, seen: Seen) -> None:
    """What one worker leaves and another handles is counted by kind."""
    async with SessionManager.open_with(
        load_settings(database_url=database_url), instruments=seen.instruments
    ) as manager:
        came = asyncio.Event()
        receiver = Mailbox(manager.database, manager.settings)
        receiver.on("greeting", lambda _: came.set())
        async with receiver.opened(), manager.open_mailbox() as sender:
            digest = digest_of(await manager.create_session())
            with receiver.waiting():
                assert await sender.send("greeting", "hello", session_digest=digest, worker_id=receiver.worker_id)
                async with asyncio.timeout(10):
                    await came.wait()
    assert seen.value("mcp_sessions.message.sent", "greeting") == 1
    assert seen.value("mcp_sessions.message.received", "greeting") == 1


async def test_live_sessions_are_counted_now_and_then(
    database_url: str, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection gets the last count of the database and never waits for one; many collections ask once."""
    async with SessionManager.open_with(
        load_settings(database_url=database_url), instruments=seen.instruments
    ) as manager:
        counts = 0
        read = manager.database.report

        async def counted(unit: object) -> object:
            nonlocal counts
            counts += 1
            return await read(unit)  # type: ignore[arg-type]  # whatever it is

        monkeypatch.setattr(manager.database, "report", counted)
        for _ in range(2):
            await manager.create_session()
        await until(lambda: seen.value("mcp_sessions.session.live") == 2)
        assert [seen.value("mcp_sessions.session.live") for _ in range(20)] == [2] * 20
        assert counts == 1
        assert seen.value("db.client.connection.max", "mcp_sessions") == 12
        assert seen.value("db.client.connection.count", "mcp_sessions", "used") == 0
    assert seen.value("mcp_sessions.session.live") is None


async def test_a_collection_while_the_database_is_away_is_quick(
    postgres_url: str, seen: Seen, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No collection waits for a database that does not answer, and an old count is not told for ever."""
    monkeypatch.setattr(live, "COUNT_EVERY", 0.0)
    settings = load_settings(database_url=postgres_url, connect_timeout=timedelta(seconds=1))
    async with SessionManager.open_with(settings, instruments=seen.instruments) as manager:
        await manager.create_session()
        await until(lambda: seen.value("mcp_sessions.session.live") == 1)
        postgres_server.freeze()
        try:
            began = time.monotonic()
            assert seen.value("mcp_sessions.session.created") == 1
            assert seen.value("mcp_sessions.session.live") == 1
            assert time.monotonic() - began < 1
            monkeypatch.setattr(live, "_TOLD_FOR", 0.0)
            assert seen.value("mcp_sessions.session.live") is None
        finally:
            postgres_server.thaw()


def test_where_it_is_off_nothing_of_it_is_imported(sqlite_url: str) -> None:
    """Without the setting, opening a manager and using it loads nothing of OpenTelemetry."""
    code = f"""
import asyncio, sys
from mcp_sessions import SessionManager
async def main():
    async with SessionManager.open({sqlite_url!r}) as sessions:
        await sessions.create_session()
asyncio.run(main())
assert not [name for name in sys.modules if name.startswith(("opentelemetry", "mcp_sessions.telemetry"))]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


async def test_the_setting_switches_it_on(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting all managers of a process tell the same instruments; without OpenTelemetry it is refused."""
    async with SessionManager.open(sqlite_url) as manager:
        assert manager.instruments is NOBODY
    async with (
        SessionManager.open(sqlite_url, telemetry=True) as first,
        SessionManager.open(sqlite_url, telemetry=True) as second,
    ):
        assert first.instruments is second.instruments
        assert first.instruments.is_on
    monkeypatch.setitem(sys.modules, "mcp_sessions.telemetry", None)
    with pytest.raises(ConfigurationError, match="pip install 'mcp-sessions\\[telemetry\\]'"):
        async with SessionManager.open(sqlite_url, telemetry=True):
            pass


async def test_an_initialize_that_fails_is_measured_too(sqlite_url: str, seen: Seen) -> None:
    """A request that is refused before its body is read has a duration as well."""
    async with worker_on(sqlite_url, seen) as browser:
        response = await browser.request("POST", headers={"mcp-session-id": "two words"}, body=b"{}")
        assert response.status == 400
        assert (await RawClient(browser).post({**INITIALIZE, "params": {}})).status in {200, 400}
    assert ("POST", 400, "http") in seen.metric("http.server.request.duration")


async def test_durations_are_recorded_though_nobody_collects() -> None:
    """What was deferred is recorded soon, many in a row, and a loop that closed before holds up no later one."""
    recorded: list[float] = []
    histogram = get_meter("test", meter_provider=MeterProvider()).create_histogram("test")
    setattr(histogram, "record", lambda seconds, *_: recorded.append(seconds))  # noqa: B010 - its type has it fixed
    deferred = DeferredRecords()

    async def add(seconds: float) -> None:
        deferred.add(histogram, seconds, {}, Context())

    await asyncio.to_thread(asyncio.run, add(-1.0))  # its loop is closed before it comes to it
    for nth in range(100):
        await add(nth)
    assert recorded == []
    await until(lambda: len(recorded) == 101)
    assert recorded == [-1.0, *range(100)]
    await add(100)
    deferred.all()
    assert recorded[-1] == 100
