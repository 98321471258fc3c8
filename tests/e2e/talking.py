"""What every client says to a server, and what it has to hear; the client of ``mcp`` 1.x imports it too."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

TOOLS = {"add", "announce", "confirm", "consult", "count", "log", "session_digest", "wait", "work"}


class Traffic:
    """The requests of one client as they went over the wire, each to the next of several workers."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = itertools.cycle(ports)
        self.exchanges: list[tuple[str, int, int]] = []
        self.session_ids: set[str] = set()

    def transport(self, httpx: Any) -> Any:
        """Return a transport of that ``httpx``, or of ``httpx2``, that sends each request to the next worker."""
        traffic = self

        class InTurn(httpx.AsyncHTTPTransport):  # type: ignore[misc]  # whichever module it is
            async def handle_async_request(self, request: Any) -> Any:
                port = next(traffic._ports)
                request.url = request.url.copy_with(port=port)
                response = await super().handle_async_request(request)
                traffic.exchanges.append((request.method, port, response.status_code))
                if session_id := response.headers.get("mcp-session-id"):
                    traffic.session_ids.add(session_id)
                return response

        return InTurn()

    def statuses(self, method: str) -> Iterator[int]:
        """The answers to a method."""
        return (status for sent, _port, status in self.exchanges if sent == method)


async def talk(session: Any, *, rounds: int = 3) -> dict[str, object]:
    """Use everything that a ``ClientSession`` of the SDK offers, in rounds; return what came back."""
    progress: list[float] = []

    async def report(step: float, _total: float | None, _message: str | None) -> None:
        progress.append(step)

    tools = {tool.name for tool in (await session.list_tools()).tools}
    sums = [(await session.call_tool("add", {"a": turn, "b": 1})).content[0].text for turn in range(rounds)]
    counted = await session.call_tool("count", {"to": rounds}, progress_callback=report)
    digests = {(await session.call_tool("session_digest", {})).content[0].text for _ in range(rounds)}
    note = await session.read_resource("note://errands")
    question = await session.get_prompt("ask", {"about": "sessions"})
    templates = await session.list_resource_templates()
    await session.send_ping()
    return {
        "tools": tools == TOOLS,
        "sums": sums,
        "counted": counted.content[0].text,
        "progress": progress,
        "sessions": len(digests),
        "note": note.contents[0].text,
        "question": question.messages[0].content.text,
        "templates": len(_templates(templates)),
    }


def heard(*, progress: bool, rounds: int = 3) -> dict[str, object]:
    """What ``talk`` has to come back with; progress only reaches a client whose answers are streams."""
    return {
        "tools": True,
        "sums": [str(turn + 1) for turn in range(rounds)],
        "counted": str(rounds),
        "progress": [float(step) for step in range(rounds)] if progress else [],
        "sessions": 1,
        "note": "the note errands",
        "question": "What about sessions?",
        "templates": 1,
    }


def _templates(listing: Any) -> list[Any]:
    templates = getattr(listing, "resource_templates", None) or getattr(listing, "resourceTemplates", None)
    assert isinstance(templates, list)
    return templates
