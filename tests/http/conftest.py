"""Workers in this process: each an app of its own around its own manager, sharing one database."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Protocol

import pytest

from mcp_sessions.asgi import DurableSessions
from tests.support.asgi import Browser, browsing
from tests.support.mcp_client import RawClient
from tests.support.mcp_servers import APPS


class StartWorker(Protocol):
    """Starts a worker on the database of the test."""

    async def __call__(self, kind: str = "sdk-json", *, auth: bool = False, **settings: Any) -> Browser:
        """Start one."""


@pytest.fixture
async def start_worker(database_url: str) -> AsyncIterator[StartWorker]:
    """Start as many workers as a test needs; they are shut down in order after it."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(kind: str = "sdk-json", *, auth: bool = False, **settings: Any) -> Browser:
            settings = {"tenant_claim": "tenant", "check_interval": timedelta(milliseconds=100), **settings}
            app = DurableSessions(APPS[kind](auth=auth), database_url=database_url, **settings)
            await stack.enter_async_context(app.lifespan())
            return await stack.enter_async_context(browsing(app))

        yield start


@pytest.fixture(params=["sdk-json", "sdk-sse", "fastmcp-json", pytest.param("fastmcp-sse", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    """Each SDK in each response mode."""
    name: str = request.param
    return name


@pytest.fixture
async def worker(start_worker: StartWorker) -> Browser:
    """One worker, of the official SDK, answering in JSON, without authentication."""
    return await start_worker()


@pytest.fixture
async def client(worker: Browser) -> RawClient:
    """A client with a session on that worker."""
    client = RawClient(worker)
    await client.initialize()
    return client
