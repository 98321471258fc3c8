"""The process that tells what a worker holds for an idle session: it opens some, leaves them alone, and looks.

Ours lets them go, and is looked at when the last one is closed; the SDK's own keeps them until its idle timeout.
What is in use is asked of the C library, with ``PYTHONMALLOC=malloc`` in the environment: it is exact, while resident
memory varies by more than these sessions take, and costs nothing, while ``tracemalloc`` takes thrice the time. Where
the C library cannot tell, ``tracemalloc`` does.

SQLite's page caches are kept small: they are bounded by themselves, and with few sessions they would be most of it.
"""

import asyncio
import ctypes
import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from time import monotonic

from mcp.server.streamable_http import StreamableHTTPServerTransport
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from benchmarks.contenders.base import require
from benchmarks.served import server
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import run_lifespan
from mcp_sessions.asgi.types import App
from tests.support.asgi import Browser, Exchange, Headers
from tests.support.mcp_client import RawClient

_WARM_UP, _AT_ONCE = 200, 32
_PATIENCE_SECONDS = 60
_OK = 200


class Apart:
    """Sends each request apart from the others: of one that is answered, nothing is kept."""

    def __init__(self, app: App) -> None:
        self._app = app

    def begin(self, method: str, path: str = "/mcp", *, headers: Headers = (), body: bytes = b"") -> Exchange:
        """Send a request."""
        return Browser(self._app).begin(method, path, headers=headers, body=body)


async def bytes_held(url: str, idle: int) -> float:
    """Return the bytes that a worker holds for each session; without a URL, that of the SDK's own sessions."""
    app: App = server().streamable_http_app(max_sessions=None)
    if url:
        soon = timedelta(seconds=0.2)
        app = DurableSessions(app, database_url=url, let_go_after=soon, check_interval=soon)
    async with run_lifespan(app):
        await open_sessions(app, _WARM_UP, let_go=bool(url))
        in_use = meter()
        before = in_use()
        await open_sessions(app, idle, let_go=bool(url))
        return (in_use() - before) / idle


@event.listens_for(Engine, "connect")
def _with_a_small_page_cache(connection: DBAPIConnection, _: object) -> None:
    if "sqlite" in type(connection).__module__:
        cursor = connection.cursor()
        cursor.execute("PRAGMA cache_size=-16")
        cursor.close()


async def open_sessions(app: App, count: int, *, let_go: bool) -> None:
    """Open sessions and call once on each; ``let_go`` waits until the worker holds none of them any more."""
    numbers = iter(range(count))

    async def opener() -> None:
        for _ in numbers:
            client = RawClient(Apart(app))
            require((await client.initialize()).status == _OK)
            require(await client.call("add", a=1, b=2))

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(opener())
    deadline = monotonic() + _PATIENCE_SECONDS
    while let_go and _transports():
        if monotonic() > deadline:
            raise TimeoutError("the worker has not let its idle sessions go: the measurement is void")
        await asyncio.sleep(0.1)


def _transports() -> int:
    gc.collect()
    return sum(isinstance(each, StreamableHTTPServerTransport) for each in gc.get_objects())


class _MallInfo2(ctypes.Structure):
    """``struct mallinfo2`` of glibc: ``malloc.h``."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def meter() -> Callable[[], int]:
    """Return what tells how many bytes are in use."""
    library = ctypes.CDLL(None)
    told = hasattr(library, "mallinfo2") and os.environ.get("PYTHONMALLOC") == "malloc"
    if told:
        library.mallinfo2.restype = _MallInfo2
    else:
        tracemalloc.start()

    def in_use() -> int:
        gc.collect()
        if not told:
            return tracemalloc.get_traced_memory()[0]
        info = library.mallinfo2()
        return int(info.uordblks + info.hblkhd)

    return in_use


if __name__ == "__main__":
    print(asyncio.run(bytes_held(sys.argv[1], int(sys.argv[2]))))
