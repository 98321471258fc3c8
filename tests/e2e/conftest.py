"""Worker processes for the tests, one fleet of each make for all tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import PostgresServer
from tests.support.schema import migrate
from tests.support.sockets import SocketBrowser
from tests.support.workers import Worker


@dataclass(frozen=True)
class Make:
    """What makes one fleet of workers different from another."""

    kind: str = "sdk-json"
    engine: str = "sqlite"
    auth: bool = False

    def __str__(self) -> str:
        return f"{self.kind}-{self.engine}{'-auth' if self.auth else ''}"

    @property
    def streams(self) -> bool:
        """Whether requests are answered by event streams."""
        return self.kind.endswith("sse")


@dataclass(frozen=True)
class Fleet:
    """Two workers on one database."""

    make: Make
    database_url: str
    workers: Sequence[Worker]

    @property
    def ports(self) -> list[int]:
        """Where they listen."""
        return [worker.port for worker in self.workers]

    @property
    def headers(self) -> dict[str, str]:
        """What a client sends to be let in."""
        return {"authorization": "Bearer alice"} if self.make.auth else {}


USUAL = [Make("sdk-json", "postgres"), Make("fastmcp-sse", "sqlite", auth=True)]
"""Each value of each column."""

SLOW = [
    Make("sdk-sse", "sqlite", auth=True),
    Make("fastmcp-json", "sqlite"),
    Make("fastmcp-sse", "postgres", auth=True),
]
"""With those, most pairs of them."""

EVERY = [
    Make(kind, engine, auth)
    for kind in ("sdk-json", "sdk-sse", "fastmcp-json", "fastmcp-sse")
    for engine in ("sqlite", "postgres")
    for auth in (False, True)
]


def marks_of(make: Make) -> Sequence[pytest.MarkDecorator]:
    """When a fleet of this make is tried: each change, each change that CI sees, or now and then."""
    if make in USUAL:
        return ()
    return (pytest.mark.slow,) if make in SLOW else (pytest.mark.long,)


StartWorkers = Callable[..., Sequence[Worker]]
"""Starts a number of workers on a database: ``(count, database_url, kind, **settings)``."""

Connect = Callable[[Worker], SocketBrowser]
"""Connects to a worker."""


@contextlib.contextmanager
def started(workers: Sequence[Worker]) -> Iterator[Sequence[Worker]]:
    """Start workers side by side; close them at the end."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        for worker in workers:
            stack.callback(worker.close)
        for start in [threads.submit(worker.start) for worker in workers]:
            start.result()
        yield workers


@contextlib.contextmanager
def fresh_database(engine: str, folder: Path, postgres: PostgresServer, template: str) -> Iterator[str]:
    """A migrated database for workers."""
    if engine == "postgres":
        with postgres.database(template=template) as name:
            yield postgres.url(name)
    else:
        url = f"sqlite:///{folder / 'sessions.db'}"
        migrate(url)
        yield url


@pytest.fixture(
    scope="session",
    params=[pytest.param(make, id=str(make), marks=marks_of(make)) for make in EVERY],
)
def fleet(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    postgres_template: str,
) -> Iterator[Fleet]:
    """Two workers of each make, for tests that leave them as they were; none of them may fail at anything."""
    make: Make = request.param
    folder = tmp_path_factory.mktemp(str(make))
    with fresh_database(make.engine, folder, postgres_server, postgres_template) as url:
        workers = [Worker(make.kind, url, auth=make.auth) for _ in range(2)]
        with started(workers):
            yield Fleet(make, url, workers)
            for worker in workers:
                assert worker.first_traceback == ""


@pytest.fixture
def start_workers() -> Iterator[StartWorkers]:
    """Start as many workers as a test needs, to do with them what it likes."""
    with contextlib.ExitStack() as stack:

        def start(count: int, database_url: str, kind: str = "sdk-json", **settings: Any) -> Sequence[Worker]:
            return stack.enter_context(started([Worker(kind, database_url, **settings) for _ in range(count)]))

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect to a worker by plain sockets; whatever is open is closed after the test."""
    browsers: list[SocketBrowser] = []

    def connect_to(worker: Worker) -> SocketBrowser:
        browsers.append(SocketBrowser(worker.port))
        return browsers[-1]

    yield connect_to
    await asyncio.gather(*(browser.close() for browser in browsers))
