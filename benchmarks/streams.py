"""The process that tells what a worker holds for an open GET stream: sessions first, and then a stream for each.

Both hold the sessions in memory before their streams are opened, so what is measured are streams alone; each has
what this process holds of its client, which is the same for all. How memory is asked for: see ``idle``.
"""

import asyncio
import sys
from typing import Any

from benchmarks.contenders.base import require
from benchmarks.idle import Apart, meter
from benchmarks.served import server
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.asgi.lifespan import run_lifespan
from tests.support.mcp_client import RawClient

_WARM_UP = 20
_OK = 200


async def bytes_held(url: str, count: int) -> float:
    """Return the bytes that a worker holds for each stream; without a URL, those of the SDK's own."""
    app: Any = server().streamable_http_app(max_sessions=None)
    if url:
        app = DurableSessions(app, database_url=url)
    async with run_lifespan(app):
        clients = [RawClient(Apart(app)) for _ in range(_WARM_UP + count)]
        for client in clients:
            require((await client.initialize()).status == _OK)
            require(await client.call("add", a=1, b=2))
        streams = [client.begin("GET") for client in clients[:_WARM_UP]]
        for stream in streams:
            require(await stream.started() == _OK)
        in_use = meter()
        before = in_use()
        for client in clients[_WARM_UP:]:
            streams.append(client.begin("GET"))
            require(await streams[-1].started() == _OK)
        held = (in_use() - before) / count
        for stream in streams:
            stream.hang_up()
            await stream.app_returned()
        return held


if __name__ == "__main__":
    print(asyncio.run(bytes_held(sys.argv[1], int(sys.argv[2]))))
