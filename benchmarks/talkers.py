"""Clients that are spoken to: what a server asks and tells on streams, and how long that takes on its way."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import aiohttp

from benchmarks.contenders.base import require
from benchmarks.contest import Discipline
from benchmarks.load import Measured, ServerCpu, measured
from benchmarks.servers import HttpWorker
from tests.support.mcp_client import ACCEPT, INITIALIZE, INITIALIZED, JSON, VERSION, call

_PATIENCE_SECONDS = 30
_WARM_UP = 20
_QUESTION, _CHANGED = b"elicitation/create", b"notifications/resources/list_changed"
_ANSWER = {"action": "accept", "content": {"sure": True}}


class Exchange(StrEnum):
    """What is measured."""

    ELICITATION = "a call that asks its user, to its result"
    NOTIFICATION = "a notification, from the call that sends it to the client's GET stream"


class Talker:
    """A client with a session and an open GET stream at one worker, and some of its requests at another one.

    Args:
        name: how it is called in the contest.
        runner: runs it.
        at: the worker that serves its stream, and the calls that ask.
        other: where it answers, and calls what has something to tell.
    """

    def __init__(self, name: str, runner: asyncio.Runner, *, at: HttpWorker, other: HttpWorker) -> None:
        self.name = name
        self._runner = runner
        self._at, self._other = (f"{worker.url}/mcp" for worker in (at, other))
        self._http = runner.run(_http())
        self._headers = runner.run(self._opened())

    def burst(self, discipline: Discipline, seconds: float) -> Measured:
        """Carry out one burst."""
        act = self._elicit if discipline.operation == Exchange.ELICITATION else self._notifications
        return self._runner.run(act(seconds))

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._http.close())

    async def _opened(self) -> dict[str, str]:
        message = {**INITIALIZE, "params": {**INITIALIZE["params"], "capabilities": {"elicitation": {"form": {}}}}}
        headers = dict((ACCEPT, JSON))
        async with self._http.post(self._at, json=message, headers=headers) as answer:
            headers |= {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": VERSION}
            await answer.read()
        async with self._http.post(self._at, json=INITIALIZED, headers=headers):
            return headers

    async def _elicit(self, seconds: float) -> Measured:
        return await _repeated(self._elicitation, seconds)

    async def _elicitation(self) -> float:
        began = time.perf_counter()
        async with self._post(self._at, call("confirm")) as answer:
            question = await _event_with(answer, _QUESTION)
            reply = {"jsonrpc": "2.0", "id": question["id"], "result": _ANSWER}
            async with self._post(self._other, reply) as taken:
                require(taken.status == 202)  # noqa: PLR2004 - accepted
            require((await _event_with(answer, b"accept"))["result"])
        return time.perf_counter() - began

    async def _notifications(self, seconds: float) -> Measured:
        async with self._http.get(self._at, headers=self._headers) as stream:

            async def notification() -> float:
                began = time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._announce())
                    await _event_with(stream, _CHANGED)
                    return time.perf_counter() - began

            return await _repeated(notification, seconds)

    async def _announce(self) -> None:
        async with self._post(self._other, call("announce")) as answer:
            require(b"announced" in await answer.read())

    @asynccontextmanager
    async def _post(self, endpoint: str, message: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._http.post(endpoint, data=json.dumps(message), headers=self._headers) as answer:
            yield answer


async def _http() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=_PATIENCE_SECONDS)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=2), timeout=timeout)


async def _repeated(act: Callable[[], Awaitable[float]], seconds: float) -> Measured:
    """Act again and again, and measure; each time tells how long it took."""
    for _ in range(_WARM_UP):
        await act()

    async def calls() -> list[float]:
        deadline = time.perf_counter() + seconds
        latencies = [await act()]
        while time.perf_counter() < deadline:
            latencies.append(await act())
        return latencies

    return await measured(calls, ServerCpu(None), time.process_time)


async def _event_with(answer: aiohttp.ClientResponse, part: bytes) -> dict[str, Any]:
    """Read a stream up to the event that contains this, and return its message."""
    async for line in answer.content:
        if line.startswith(b"data:") and part in line:
            message: dict[str, Any] = json.loads(line[5:])
            return message
    raise LookupError(f"a stream ended before {part.decode()} came: the burst is void")
