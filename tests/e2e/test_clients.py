"""The clients that people have, against one worker and against two taken in turn on every request."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client as FastMCPClient
from fastmcp.client.transports import StreamableHttpTransport
from mcp import Client, ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from pydantic import FileUrl

from mcp_sessions import SessionManager
from tests.e2e.conftest import Fleet
from tests.e2e.talking import Traffic, heard, talk
from tests.support.polling import until

MCP_1X = "mcp==1.30.0"
TYPESCRIPT = "@modelcontextprotocol/sdk@1.32.2"


@pytest.fixture(params=["one worker", "in turn"])
def ports(request: pytest.FixtureRequest, fleet: Fleet) -> list[int]:
    """The workers that a client's requests go to."""
    return fleet.ports[:1] if request.param == "one worker" else fleet.ports


@contextlib.asynccontextmanager
async def sdk_client(fleet: Fleet, traffic: Traffic, **options: Any) -> AsyncIterator[ClientSession]:
    """The client of the SDK, with a session."""
    async with httpx2.AsyncClient(transport=traffic.transport(httpx2), headers=fleet.headers, timeout=30) as http:
        transport = streamable_http_client(f"{fleet.workers[0].url}/mcp", http_client=http)
        async with Client(transport, mode="legacy", **options) as client:
            yield client.session


@contextlib.asynccontextmanager
async def fastmcp_client(fleet: Fleet, traffic: Traffic, **options: Any) -> AsyncIterator["AsSession"]:
    """FastMCP's client, with a session."""

    def http(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **options: Any,
    ) -> httpx2.AsyncClient:
        transport = traffic.transport(httpx2)
        return httpx2.AsyncClient(transport=transport, headers=headers, timeout=timeout or 30, auth=auth, **options)

    transport = StreamableHttpTransport(f"{fleet.workers[0].url}/mcp", headers=fleet.headers, httpx_client_factory=http)
    async with FastMCPClient(transport, mode="legacy", **options) as client:
        yield AsSession(client)


class AsSession:
    """FastMCP's client, under the names of the SDK's."""

    def __init__(self, client: FastMCPClient[Any]) -> None:
        self._client = client
        self.list_tools = client.list_tools_mcp
        self.read_resource = client.read_resource_mcp
        self.get_prompt = client.get_prompt_mcp
        self.list_resource_templates = client.list_resource_templates_mcp
        self.send_ping = client.ping

    async def call_tool(self, name: str, arguments: dict[str, Any], progress_callback: Any = None) -> Any:
        """Call a tool."""
        return await self._client.call_tool_mcp(name, arguments, progress_handler=progress_callback)


@pytest.mark.parametrize("connected", [sdk_client, fastmcp_client])
async def test_client_finds_all_that_it_expects(fleet: Fleet, ports: list[int], connected: Any) -> None:
    """Tools, resources, prompts, progress and ping work throughout, in one session, which the client's DELETE ends."""
    traffic = Traffic(ports)
    async with connected(fleet, traffic) as session:
        assert await talk(session) == heard(progress=fleet.make.streams)
        (session_id,) = traffic.session_ids
        async with SessionManager.open(fleet.database_url) as manager:
            assert await manager.is_session_valid(session_id)
            await until(lambda: "GET" in [method for method, _port, _status in traffic.exchanges])
    assert_all_went_well(traffic, ports)
    async with SessionManager.open(fleet.database_url) as manager:
        assert not await manager.is_session_valid(session_id)
    async with httpx2.AsyncClient(headers={**fleet.headers, "mcp-session-id": session_id}) as http:
        answers = [await http.get(f"http://127.0.0.1:{port}/mcp") for port in fleet.ports]
    assert [answer.status_code for answer in answers] == [404, 404]


def assert_all_went_well(traffic: Traffic, ports: list[int]) -> None:
    """Every worker had its turn and answered as it should; a stream was opened, and the session ended once."""
    assert set(traffic.statuses("GET")) == {200}
    assert set(traffic.statuses("POST")) == {200, 202}
    assert list(traffic.statuses("DELETE")) == [204]
    assert {port for _method, port, _status in traffic.exchanges} == set(ports)


@pytest.fixture(scope="session")
def python_with_mcp_1x(pytestconfig: pytest.Config) -> Path:
    """A Python that has ``mcp`` 1.x, made once for this checkout."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("mcp-1x")
    made = folder / MCP_1X
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "venv"], check=True)
            install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", MCP_1X]
            subprocess.run([folder / "venv/bin/python", *install], check=True)
            made.touch()
    return folder / "venv/bin/python"


@pytest.mark.slow
@pytest.mark.timeout(300)  # the first time that Python is made
async def test_client_of_1x_finds_all_that_it_expects(fleet: Fleet, ports: list[int], python_with_mcp_1x: Path) -> None:
    """A client of the SDK's first generation finds the same, and its DELETE ends the session on every worker."""
    process = await asyncio.create_subprocess_exec(
        python_with_mcp_1x,
        *("-m", "tests.e2e.mcp_1x", json.dumps(fleet.headers), *map(str, ports)),
        cwd=Path(__file__).parents[2],
        env={"PATH": os.defpath},
        stdout=subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode == 0
    told = json.loads(output)
    assert told["answers"] == heard(progress=fleet.make.streams)
    assert told["afterwards"] == [404] * len(ports)
    traffic = Traffic(ports)
    traffic.exchanges = [(method, port, status) for method, port, status in told["exchanges"]]
    assert_all_went_well(traffic, ports)


@pytest.fixture(scope="session")
def typescript_client(pytestconfig: pytest.Config) -> Path:
    """The script that talks by the TypeScript SDK, beside that SDK, which is installed once for this checkout."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine (Debian and Ubuntu: apt-get install nodejs npm)")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("typescript-sdk")
    script = Path(__file__).with_name("typescript_client.mjs")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / TYPESCRIPT.rpartition("@")[2]
        if not made.exists():
            options = ["--prefix", str(folder), "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(["npm", "install", *options, TYPESCRIPT], check=True)
            made.touch()
        return Path(shutil.copy(script, folder))  # Node looks for what a module imports beside that module


@pytest.mark.slow
@pytest.mark.timeout(300)  # the first time that the SDK is installed
async def test_client_of_typescript_is_spoken_to(fleet: Fleet, typescript_client: Path, tmp_path: Path) -> None:
    """What a server asks and tells reaches it, and what it cancels and sets holds, over workers taken in turn."""
    arguments = (json.dumps(fleet.headers), str(tmp_path), *map(str, fleet.ports))
    process = await asyncio.create_subprocess_exec("node", typescript_client, *arguments, stdout=subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    told = json.loads(output)
    assert told["confirmed"] == ["accept: Sure?", "accept: Really?", "accept: Quite?"]
    assert told["consulted"] == ["file:///home hi"] * 3
    assert (told["counted"], told["progress"]) == ("3", [0, 1, 2] if fleet.make.streams else [])
    assert told["changes"] == ["notifications/resources/list_changed"] * 4
    assert told["hasLevels"] == fleet.make.kind.startswith("fastmcp")
    if fleet.make.streams:
        assert told["logged"] == (["error"] * 2 if told["hasLevels"] else ["info", "error"] * 2)
    assert "enough" in told["left"]
    assert (tmp_path / "stopped").exists()
    traffic = Traffic(fleet.ports)
    traffic.exchanges = [(method, port, status) for method, port, status in told["exchanges"]]
    assert set(traffic.statuses("POST")) == {200, 202}
    assert {port for _method, port, _status in traffic.exchanges} == set(fleet.ports)


async def test_server_speaks_first_on_the_standalone_stream(fleet: Fleet) -> None:
    """What a server says outside of any request reaches the client on its GET stream, whichever worker says it."""
    traffic = Traffic(fleet.ports)
    said: list[str] = []

    async def listen(message: Any) -> None:
        said.append(getattr(message, "method", type(message).__name__))

    async with sdk_client(fleet, traffic, message_handler=listen) as session:
        await until(lambda: "GET" in [method for method, _port, _status in traffic.exchanges])
        for _ in range(4):
            said.clear()
            await session.call_tool("announce", {})
            await until(lambda: said == ["notifications/resources/list_changed"])


async def agree(*_: Any) -> ElicitResult:
    """The user of the SDK's client, who says yes."""
    return ElicitResult(action="accept", content={"sure": True})


async def say(*_: Any) -> CreateMessageResult:
    """The model of the SDK's client."""
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="hi"), model="m")


async def tell(*_: Any) -> ListRootsResult:
    """The roots of the SDK's client."""
    return ListRootsResult(roots=[Root(uri=FileUrl("file:///home"))])


async def say_so(*_: Any) -> str:
    """The model of FastMCP's client."""
    return "hi"


ANSWERING = [
    (sdk_client, {"elicitation_callback": agree, "sampling_callback": say, "list_roots_callback": tell}),
    (fastmcp_client, {"elicitation_handler": agree, "sampling_handler": say_so, "roots": ["file:///home"]}),
]


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@pytest.mark.parametrize(("connected", "answers"), ANSWERING, ids=["sdk", "fastmcp"])
async def test_client_answers_what_the_server_asks(fleet: Fleet, connected: Any, answers: Any) -> None:
    """Elicitation, sampling and roots reach the client, and its answers the tools, over workers taken in turn."""
    traffic = Traffic(fleet.ports)
    async with connected(fleet, traffic, **answers) as session:
        await until(lambda: "GET" in [method for method, _port, _status in traffic.exchanges])
        for question in ("Sure?", "Really?"):
            confirmed = await session.call_tool("confirm", {"question": question})
            assert confirmed.content[0].text == f"accept: {question}"
        assert (await session.call_tool("consult", {})).content[0].text == "file:///home hi"
    assert set(traffic.statuses("POST")) == {200, 202}


async def test_client_of_the_next_revision_has_no_session(fleet: Fleet) -> None:
    """The SDK's client in its usual mode speaks revision 2026-07-28: it is served, and there is no session."""
    traffic = Traffic(fleet.ports)
    async with SessionManager.open(fleet.database_url) as manager:
        before = await manager.list_sessions()  # other tests leave some
    async with httpx2.AsyncClient(transport=traffic.transport(httpx2), headers=fleet.headers, timeout=30) as http:
        transport = streamable_http_client(f"{fleet.workers[0].url}/mcp", http_client=http)
        async with Client(transport) as client, SessionManager.open(fleet.database_url) as manager:
            assert client.protocol_version == "2026-07-28"
            result = await client.call_tool("add", {"a": 1, "b": 2})
            assert getattr(result.content[0], "text", None) == "3"
            digests = [session.digest for session in (await manager.list_sessions()).sessions]
            assert digests == [session.digest for session in before.sessions]
    assert traffic.session_ids == set()
