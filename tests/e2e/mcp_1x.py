"""A client of the ``mcp`` SDK 1.x: runs in an environment of its own, and prints what it heard as JSON."""

import asyncio
import importlib
import json
import sys
from typing import Any

from tests.e2e.talking import Traffic, talk
from tests.support.polling import until

# Not by name: in the environment of the type checker there is another version.
httpx: Any = importlib.import_module("httpx")
mcp: Any = importlib.import_module("mcp")
streamable_http: Any = importlib.import_module("mcp.client.streamable_http")


async def main(headers: dict[str, str], ports: list[int]) -> None:
    """Talk to the workers in turn, then end the session, and knock on every door once more."""
    traffic = Traffic(ports)
    url = f"http://127.0.0.1:{ports[0]}/mcp"

    def client(**options: Any) -> Any:
        return httpx.AsyncClient(transport=traffic.transport(httpx), **options)

    async with (
        client(headers=headers, timeout=30) as http,
        streamable_http.streamable_http_client(url, http_client=http) as (read, write, _session_id),
        mcp.ClientSession(read, write) as session,
    ):
        await session.initialize()
        answers = await talk(session)
        await until(lambda: any(traffic.statuses("GET")))
    (session_id,) = traffic.session_ids
    exchanges = traffic.exchanges.copy()
    async with client(headers={**headers, "mcp-session-id": session_id, "accept": "text/event-stream"}) as http:
        afterwards = [(await http.get(url)).status_code for _ in ports]
    result = {"answers": answers, "exchanges": exchanges, "afterwards": afterwards}
    print(json.dumps(result))  # noqa: T201  # the test reads it


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
