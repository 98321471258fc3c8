"""`/healthz` and `/readyz`: what a supervisor and a load balancer learn, and what they do not take from requests."""

import asyncio
import json
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

from mcp_sessions import ConfigurationError
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.health import takes_probes
from mcp_sessions.asgi.types import Receive, Scope, Send
from mcp_sessions.db.schema.revisions import head_revision
from tests.support.asgi import Browser, Response, browsing
from tests.support.mcp_client import RawClient
from tests.support.mcp_servers import fastmcp_app, sdk_app
from tests.support.plain import execute
from tests.support.polling import until
from tests.support.postgres import PostgresServer

READY, ALIVE = "/readyz", "/healthz"


def failed(response: Response) -> str | None:
    """Return the check that an answer says has failed; None where it says that all is well."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    said = json.loads(response.body)
    if response.status == 200:
        assert said == {"status": "ok"}
        return None
    assert response.status == 503
    assert said.keys() == {"status", "failed"}
    assert said["status"] == "unavailable"
    word: str = said["failed"]
    return word


async def asked(browser: Browser, path: str = READY) -> str | None:
    """Ask once, and return the check that failed."""
    return failed(await browser.request("GET", path))


@pytest.mark.parametrize("make", [sdk_app, fastmcp_app])
async def test_a_worker_tells_that_it_lives_and_is_ready(database_url: str, make: Any) -> None:
    """Both paths answer 200 without authentication, HEAD without a body, and other methods are the app's."""
    app = DurableSessions(make(json=True, auth=True), database_url=database_url, health=True)
    async with app.lifespan(), browsing(app) as browser:
        assert [await asked(browser, path) for path in (ALIVE, READY)] == [None, None]
        assert (await browser.request("HEAD", READY)).body == b""
        assert (await browser.request("POST", READY)).status == 404
        assert (await browser.request("GET")).status == 401


async def test_by_default_the_paths_are_the_apps(sqlite_url: str) -> None:
    """Without `health` nothing answers in front of the app."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url)
    async with app.lifespan(), browsing(app) as browser:
        assert [(await browser.request("GET", path)).status for path in (ALIVE, READY)] == [404, 404]


async def test_a_mounted_app_answers_below_its_mount(sqlite_url: str) -> None:
    """Where a host mounts the app, the two paths are where the app is."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, health=True)
    host = Starlette(routes=[Mount("/tools", app=app)], lifespan=app.lifespan)
    async with host.router.lifespan_context(host), browsing(host) as browser:
        assert await asked(browser, "/tools/readyz") is None
        assert (await browser.request("GET", READY)).status == 404


async def test_ready_follows_the_database_down_and_up(postgres_url: str, postgres_server: PostgresServer) -> None:
    """`/readyz` says that the database is away while it is stopped, and heals; `/healthz` does not change."""
    app = DurableSessions(sdk_app(json=True), database_url=postgres_url, health=True)
    async with app.lifespan(), browsing(app) as browser:
        assert await asked(browser) is None
        await asyncio.to_thread(postgres_server.stop)
        try:
            await until(lambda: _says(browser, "database"))
            assert await asked(browser, ALIVE) is None
        finally:
            await asyncio.to_thread(postgres_server.start)
        await until(lambda: _says(browser, None))


@pytest.mark.slow
async def test_a_frozen_database_is_told_in_time(
    postgres_url: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that accepts and says nothing makes a probe wait two seconds at most; each change leaves one line."""
    caplog.set_level(logging.INFO, "mcp_sessions")
    app = DurableSessions(sdk_app(json=True), database_url=postgres_url, health=True)
    async with app.lifespan(), browsing(app) as browser:
        assert await asked(browser) is None
        postgres_server.freeze()
        try:
            await until(lambda: _says(browser, "database"))
            async with asyncio.timeout(4):  # of which two are for a machine that is slow
                assert await asked(browser) == "database"
        finally:
            postgres_server.thaw()
        await until(lambda: _says(browser, None))
    said = [
        record.message for record in caplog.records if "is not ready" in record.message or "again" in record.message
    ]
    assert said == ["mcp-sessions is not ready (database): no answer within 2 s", "mcp-sessions is ready again"]


async def _says(browser: Browser, word: str | None) -> bool:
    return await asked(browser) == word


@pytest.mark.parametrize(("revision", "word"), [("0001", "schema revision"), ("9999", None)])
async def test_an_older_schema_is_not_ready_and_a_newer_one_is(
    database_url: str, revision: str, word: str | None
) -> None:
    """A database that was migrated back is told; one that a newer version has migrated serves on."""
    assert head_revision() != revision
    app = DurableSessions(sdk_app(json=True), database_url=database_url, health=True)
    async with app.lifespan(), browsing(app) as browser:
        await execute(database_url, f"UPDATE mcp_sessions_alembic_version SET version_num = '{revision}'")
        assert await asked(browser) == word


async def test_a_storm_of_probes_is_one_look(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many probe at once, the database is asked once, and no request waits for a connection."""
    app = DurableSessions(sdk_app(json=True), database_url=postgres_url, health=True)
    looks = 0
    async with app.lifespan(), browsing(app) as browser:
        sessions = app._layer.serving_sessions()
        read = sessions.database.read

        async def counted(unit: Any) -> Any:
            nonlocal looks
            looks += 1
            return await read(unit)

        monkeypatch.setattr(sessions.database, "read", counted)
        client = RawClient(browser)
        await client.initialize()
        before = looks
        probes = [asyncio.create_task(asked(browser)) for _ in range(500)]
        assert await client.call("add", a=1, b=2) == "3"
        assert set(await asyncio.gather(*probes)) == {None}
        assert await asked(browser) is None
        assert looks - before <= 2  # a second may have passed meanwhile


async def test_a_probe_that_hangs_up_takes_no_other_with_it(sqlite_url: str) -> None:
    """A probe that is cancelled while the database is asked leaves the look to the others."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, health=True)
    async with app.lifespan(), browsing(app) as browser:
        first, second = browser.begin("GET", READY), browser.begin("GET", READY)
        await asyncio.sleep(0)
        await first.cancel()
        assert failed(await second.response()) is None


async def test_a_draining_worker_is_alive_and_not_ready(sqlite_url: str) -> None:
    """From the moment a worker drains, and before it has started, it is not ready; its process lives."""
    app = DurableSessions(sdk_app(json=True), database_url=sqlite_url, health=True)
    async with browsing(app) as browser:
        assert await asked(browser) == "not started"
        async with app.lifespan():
            assert await asked(browser) is None
            await app.drain()
            assert await asked(browser) == "draining"
            assert await asked(browser, ALIVE) is None


async def _endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("mine")(scope, receive, send)


class _Opaque:
    def __init__(self, app: Any) -> None:
        self.wrapped = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.wrapped(scope, receive, send)


OWN = [
    [Route(READY, PlainTextResponse("mine"))],
    [Route("/{page}", PlainTextResponse("mine"), methods=["POST"])],
    [Mount("/", app=Starlette(routes=[Route(ALIVE, PlainTextResponse("mine"))]))],
    [Host("here.example", app=Starlette(routes=[Route(ALIVE, PlainTextResponse("mine"))]))],
]


@pytest.mark.parametrize("routes", OWN)
async def test_an_apps_own_routes_are_not_shadowed(sqlite_url: str, routes: list[Any]) -> None:
    """`health=True` is refused where the app has such routes, wherever it has them, and `serve` leaves them to it."""
    inner = sdk_app(json=True)
    inner.router.routes += routes
    with pytest.raises(ConfigurationError, match="a route of its own for /healthz or /readyz"):
        DurableSessions(inner, database_url=sqlite_url, health=True)
    assert not DurableSessions(inner, database_url=sqlite_url).answer_probes()  # the refusal has changed nothing


def test_serve_answers_only_where_it_sees_that_nobody_else_does(sqlite_url: str) -> None:
    """An app without visible routes might answer itself: `serve` leaves it alone, and `health=True` takes the paths."""
    plain, mounted = sdk_app(json=True), sdk_app(json=True)
    assert DurableSessions(plain, database_url=sqlite_url).answer_probes()
    mounted.router.routes.append(Mount("/", app=_endpoint))
    assert takes_probes(mounted) is None
    for make in (lambda: mounted, lambda: _Opaque(sdk_app(json=True))):
        assert not DurableSessions(make(), database_url=sqlite_url).answer_probes()
    assert DurableSessions(_Opaque(sdk_app(json=True)), database_url=sqlite_url, health=True).answer_probes()
    assert not DurableSessions(sdk_app(json=True), database_url=sqlite_url, health=False).answer_probes()
    with_more = Starlette(routes=[Mount("/a", app=sdk_app(json=True))], middleware=[Middleware(_Opaque)])
    assert takes_probes(with_more) is False
