"""Run `mcp-sessions serve` as real processes, and talk to them with a real MCP client."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import mcp_sessions
from tests.support.mcp_client import INITIALIZE, INITIALIZED, VERSION
from tests.support.processes import poll

SOURCES = Path(mcp_sessions.__file__).parents[1]
_ENDPOINT = re.compile(r"endpoint +(http://\S+)")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that runs this package."""
    return os.environ | {"PYTHONPATH": str(SOURCES), "PYTHONUNBUFFERED": "1"} | more


class Serve:
    """One `mcp-sessions serve`, and whatever it starts; nothing of it is left in the end."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        self._output = folder / f"output-{len([*folder.glob('output-*')])}"
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mcp_sessions", "serve", "--port", "0", *arguments],
                cwd=folder,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has printed and logged."""
        return self._output.read_text()

    @property
    def endpoint(self) -> str:
        """The URL of the MCP endpoint, as it is printed."""
        poll(lambda: self._shown is not None or not self.running, seconds=30, waiting_for="the endpoint")
        assert self._shown is not None, self.output
        return self._shown[1]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def _shown(self) -> re.Match[str] | None:
        return _ENDPOINT.search(self.output)

    @property
    def running(self) -> bool:
        """Whether the process that was started lives."""
        return self.process.poll() is None

    def refuses_connections(self) -> bool:
        """Whether nobody listens at its address."""
        with socket.socket() as probe:
            return probe.connect_ex(self.address) != 0

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(timeout=30)

    def stop(self) -> int:
        """Tell it to stop, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **env: str) -> Iterator[Serve]:
    """Serve in a folder, and listen."""
    with Serve(folder, *arguments, **env) as server:
        assert server.endpoint
        yield server


class Connection:
    """A real client's session at a server."""

    def __init__(self, client: Client, session_id: list[str]) -> None:
        self.client = client
        self._session_id = session_id

    @property
    def session_id(self) -> str:
        """The id that the server gave."""
        return self._session_id[0]

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a tool and return the text of its answer."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result
        (content,) = result.content
        assert content.type == "text"
        return content.text


class _Persistent(httpx2.AsyncHTTPTransport):
    """Sends a request again, once, if its connection was cut: a worker that ends drops those it has just accepted."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            return await super().handle_async_request(request)


@contextlib.asynccontextmanager
async def connected(endpoint: str, *, persistent: bool = False) -> AsyncIterator[Connection]:
    """The official SDK's client with a session, that each request reaches on a connection of its own.

    ``persistent``: it tries again where a connection is cut. The session is left alive at the end.
    """
    session_id: list[str] = []

    async def note(response: httpx2.Response) -> None:
        if "mcp-session-id" in response.headers:
            session_id.append(response.headers["mcp-session-id"])

    one_each = httpx2.Limits(max_keepalive_connections=0)
    transport = (_Persistent if persistent else httpx2.AsyncHTTPTransport)(limits=one_each)
    async with httpx2.AsyncClient(timeout=30, transport=transport, event_hooks={"response": [note]}) as http:
        over_http = streamable_http_client(endpoint, http_client=http, terminate_on_close=False)
        async with Client(over_http, mode="legacy") as client:
            await client.list_tools()  # otherwise it asks after the first answer, to check that
            yield Connection(client, session_id)


async def opened(http: httpx2.AsyncClient, endpoint: str) -> dict[str, str]:
    """Open a session with raw requests, and return the headers of later ones: the client has one stream, its own."""
    headers = {"accept": "application/json, text/event-stream"}
    response = await http.post(endpoint, json=INITIALIZE, headers=headers)
    headers = in_session(response.headers["mcp-session-id"])
    assert (await http.post(endpoint, json=INITIALIZED, headers=headers)).status_code == 202
    return headers


def in_session(session_id: str) -> dict[str, str]:
    """Return the headers of a raw request in a session."""
    return {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": VERSION,
        "mcp-session-id": session_id,
    }
