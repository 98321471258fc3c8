"""The examples of `docs/how-to/set-up.md` do what the page says."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from fastmcp import FastMCP
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from typer.testing import CliRunner

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.cli.app import app as command_line
from tests.support.mcp_client import ACCEPT, INITIALIZE
from tests.support.pages import Page
from tests.support.serving import in_session

PAGE = Page("docs/how-to/set-up.md")
OURS, FOREIGN = "https://app.example", "https://elsewhere.example"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, where the examples make their database."""
    monkeypatch.chdir(tmp_path)


@asynccontextmanager
async def served(app: DurableSessions, base_url: str = "https://notes.example") -> AsyncIterator[httpx2.AsyncClient]:
    """Run an app, and talk to it under that name."""
    async with app.lifespan(), talking(app, base_url) as http:
        yield http


def talking(app: DurableSessions | Starlette, base_url: str) -> httpx2.AsyncClient:
    """Talk to an app that runs, under that name."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=base_url, headers=[ACCEPT])


async def opened(http: httpx2.AsyncClient, path: str = "/mcp", **headers: str) -> httpx2.Response:
    """Open a session."""
    return await http.post(path, json=INITIALIZE, headers=headers)


class TestBrowserClients:
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    async def test_preflights_are_granted(self, method: str) -> None:
        """A page that is allowed may send each method, with all headers that a client of MCP sends."""
        wanted = "authorization,content-type,last-event-id,mcp-method,mcp-name,mcp-protocol-version,mcp-session-id"
        asked = {"origin": OURS, "access-control-request-method": method, "access-control-request-headers": wanted}
        async with served(PAGE.run_block_with("CORSMiddleware")["app"]) as http:
            response = await http.options("/mcp", headers=asked)
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == OURS
            assert method in response.headers["access-control-allow-methods"]
            response = await http.options("/mcp", headers={**asked, "origin": FOREIGN})
            assert response.status_code == 400

    async def test_the_session_id_can_be_read(self) -> None:
        """The answer to initialize shows its session id to the page's script, and the session goes on and ends."""
        async with served(PAGE.run_block_with("CORSMiddleware")["app"]) as http:
            response = await opened(http, origin=OURS)
            assert "Mcp-Session-Id" in response.headers["access-control-expose-headers"]
            headers = {**in_session(response.headers["mcp-session-id"]), "origin": OURS}
            assert (await http.post("/mcp", json=PING, headers=headers)).status_code == 200
            assert (await http.delete("/mcp", headers=headers)).status_code == 204
            ended = await http.post("/mcp", json=PING, headers=headers)
            assert ended.status_code == 404
            assert ended.headers["access-control-allow-origin"] == OURS

    async def test_other_pages_open_nothing(self) -> None:
        """A page that is not allowed is refused, and gets no session."""
        async with served(PAGE.run_block_with("CORSMiddleware")["app"]) as http:
            response = await opened(http, origin=FOREIGN)
            assert response.status_code == 403
            assert "mcp-session-id" not in response.headers
            assert "access-control-allow-origin" not in response.headers

    async def test_fastmcp_takes_the_same_middleware(self) -> None:
        """What the page adds to the SDK's app exposes the session id of FastMCP's, too."""
        added = PAGE.run_block_with("CORSMiddleware")["mcp_app"].user_middleware[0]
        app = FastMCP("notes").http_app()
        app.add_middleware(added.cls, **added.kwargs)
        async with served(DurableSessions(app)) as http:
            response = await opened(http, origin=OURS)
        assert response.headers["mcp-session-id"]
        assert "Mcp-Session-Id" in response.headers["access-control-expose-headers"]


class TestHostsAndOrigins:
    EXAMPLE = "host_origin_protection"

    async def test_names_of_the_list_and_of_this_machine_are_served(self) -> None:
        """The public name, from an allowed page or from none, and a loopback name get a session."""
        for name in ("https://notes.example", "http://127.0.0.1:8000"):
            async with served(PAGE.run_block_with(self.EXAMPLE)["app"], name) as http:
                assert (await opened(http)).status_code == 200
                assert (await opened(http, origin=OURS)).status_code == 200

    async def test_foreign_ones_are_refused(self) -> None:
        """A foreign host gets 421, a foreign origin 403, a live session's id or not."""
        async with served(PAGE.run_block_with(self.EXAMPLE)["app"]) as http:
            headers = in_session((await opened(http)).headers["mcp-session-id"])
            for more, status in (({"host": "elsewhere.example"}, 421), ({"origin": FOREIGN}, 403)):
                assert (await opened(http, **more)).status_code == status
                assert (await http.post("/mcp", json=PING, headers={**headers, **more})).status_code == status

    async def test_fastmcp_alone_refuses_nobody(self) -> None:
        """Without these settings FastMCP serves whatever host and origin are named, as the page warns."""
        async with served(DurableSessions(FastMCP("notes").http_app())) as http:
            response = await opened(http, host="elsewhere.example", origin=FOREIGN)
        assert response.status_code == 200


class TestTwoServers:
    @pytest.fixture
    def _migrated(self, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The page's commands, run on an empty database."""
        (commands,) = PAGE.blocks("sh")
        monkeypatch.setenv("MCP_SESSIONS_DATABASE_URL", empty_postgres_url)
        found = re.findall(r"^mcp-sessions (.+)$", commands, re.MULTILINE)
        assert len(found) == 2
        for command in found:
            assert CliRunner().invoke(command_line, command.split()).exit_code == 0

    @pytest.mark.usefixtures("_migrated")
    async def test_with_schemas_of_their_own_know_only_their_own_sessions(self) -> None:
        """A session of the one is unknown to the other."""
        names = PAGE.run_block_with("database_schema")
        async with names["lifespan"](names["app"]), talking(names["app"], "http://127.0.0.1:8000") as http:
            headers = in_session((await opened(http, "/notes/mcp")).headers["mcp-session-id"])
            assert (await http.post("/notes/mcp", json=PING, headers=headers)).status_code == 200
            assert (await http.post("/tasks/mcp", json=PING, headers=headers)).status_code == 404

    async def test_that_share_one_take_each_others_sessions(self, database_url: str) -> None:
        """Without them, a session of the one is served by the other, as the page warns."""
        notes, tasks = (
            DurableSessions(MCPServer(name).streamable_http_app(), database_url=database_url)
            for name in ("notes", "tasks")
        )
        async with served(notes, "http://127.0.0.1:8000") as http, served(tasks, "http://127.0.0.1:8000") as other:
            headers = in_session((await opened(http)).headers["mcp-session-id"])
            assert (await other.post("/mcp", json=PING, headers=headers)).status_code == 200


class TestRestore:
    async def test_on_initialize_runs_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        """At a client's initialize it finds no durable session; where one is restored it runs again, and does."""
        make_app = PAGE.run_block_with("on_initialize")["make_app"]
        async with served(make_app()) as http:
            headers = in_session((await opened(http)).headers["mcp-session-id"])
            assert capsys.readouterr().out == "a client begins a session\n"
            assert (await http.post("/mcp", json=PING, headers=headers)).status_code == 200
            assert capsys.readouterr().out == ""
        async with served(make_app()) as http:
            for _ in range(2):
                assert (await http.post("/mcp", json=PING, headers=headers)).status_code == 200
            assert capsys.readouterr().out == "a session is restored here\n"


def test_every_example_is_tried() -> None:
    """Each block of Python on the page is one of those above."""
    assert len(PAGE.blocks("python")) == 4
