"""A client of the demo: the official SDK's, over HTTP that goes to the worker that the demo names."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mcp_sessions.asgi.headers import SESSION_ID
from mcp_sessions.examples.demo import DemoFailedError
from mcp_sessions.examples.demo.workers import Worker

_PATIENCE = httpx2.Timeout(10, read=30)


class Balancer(httpx2.AsyncBaseTransport):
    """What a load balancer does: each request goes to a worker, and the client does not know to which."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.session_id = ""
        self._network = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request on."""
        request.url = request.url.copy_with(port=httpx2.URL(self.worker.endpoint).port)
        response = await self._network.handle_async_request(request)
        self.session_id = response.headers.get(SESSION_ID.decode(), self.session_id)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._network.aclose()


class DemoClient:
    """A client with a session."""

    def __init__(self, client: Client, balancer: Balancer) -> None:
        self._client = client
        self._balancer = balancer

    @property
    def session_id(self) -> str:
        """The id that the server gave."""
        return self._balancer.session_id

    async def call(self, worker: Worker, tool: str, **arguments: str) -> dict[str, Any]:
        """Call a tool by way of a worker, and return what it answers.

        Raises:
            DemoFailedError: it answers with an error.
        """
        self._balancer.worker = worker
        result = await self._client.call_tool(tool, arguments)
        if result.is_error or result.structured_content is None:
            raise DemoFailedError(f"the tool {tool} failed on worker {worker.name}: {result.content}")
        facts: dict[str, Any] = result.structured_content
        return facts


@contextlib.asynccontextmanager
async def connected(worker: Worker, *, newest: bool = False) -> AsyncIterator[DemoClient]:
    """A client that opens a session on that worker, and ends it with DELETE where it called last.

    One of the ``newest`` revision does neither: that has no sessions.
    """
    balancer = Balancer(worker)
    async with httpx2.AsyncClient(transport=balancer, timeout=_PATIENCE) as http:
        transport = streamable_http_client(worker.endpoint, http_client=http)
        async with Client(transport, mode="auto" if newest else "legacy") as client:
            yield DemoClient(client, balancer)


async def status_of(worker: Worker, session_id: str) -> int:
    """Return the status with which a worker answers a request in that session."""
    headers = {
        SESSION_ID.decode(): session_id,
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with httpx2.AsyncClient(timeout=_PATIENCE) as http:
        response = await http.post(worker.endpoint, json=message, headers=headers)
        return response.status_code
