"""MCP clients over real connections, kept alive: the bare requests of the protocol, so that they cost little."""

import asyncio
import itertools
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

import aiohttp

from benchmarks.contenders.base import require
from benchmarks.contest import Discipline
from benchmarks.load import Measured, ServerCpu, burst, each_once
from benchmarks.servers import HttpWorker
from tests.support.mcp_client import ACCEPT, INITIALIZE, INITIALIZED, JSON, VERSION, call

_OK, _ACCEPTED = 200, 202
_SESSIONS = 64
_RESTORES_PER_SECOND = 100
_KEPT_SECONDS = 2  # uvicorn closes a connection after five idle seconds, which nobody notices between bursts
_PATIENCE_SECONDS = 30


class Operation(StrEnum):
    """What is measured over HTTP."""

    CALL = "tools/call"
    RESTORE = "restore a session"
    OPEN = "open a session"


_Answer = tuple[Mapping[str, str], bytes]  # the headers and the body


class _Client:
    """A client with a session."""

    def __init__(self, http: aiohttp.ClientSession, endpoint: str, session_id: str) -> None:
        self._http = http
        self._endpoint = endpoint
        self._session_id = session_id

    @classmethod
    async def opened(cls, http: aiohttp.ClientSession, endpoint: str) -> Self:
        """Open a session, as every client does: ``initialize``, then ``notifications/initialized``."""
        headers, _ = await _post(http, endpoint, INITIALIZE, _OK)
        client = cls(http, endpoint, headers["mcp-session-id"])
        await client._send(INITIALIZED, _ACCEPTED)
        return client

    def at(self, endpoint: str) -> "_Client":
        """Return the same client at another worker."""
        return _Client(self._http, endpoint, self._session_id)

    async def add(self) -> None:
        """Call the tool."""
        _, body = await self._send(call("add", a=1, b=2), _OK)
        require(b'"text":"3"' in body)

    async def _send(self, message: Any, status: int) -> _Answer:
        names = {"mcp-session-id": self._session_id, "mcp-protocol-version": VERSION}
        return await _post(self._http, self._endpoint, message, status, **names)


async def _post(http: aiohttp.ClientSession, endpoint: str, message: Any, status: int, **headers: str) -> _Answer:
    headers |= (ACCEPT, JSON)
    async with http.post(endpoint, data=json.dumps(message), headers=headers) as answer:
        body = await answer.read()
        if answer.status != status:
            raise RuntimeError(f"{endpoint} answered {answer.status} where {status} was due: {body[:200]!r}")
        return answer.headers, body


class Visitors:
    """The clients of one contender, with a session each, which take its turns in the contest.

    What they measure as the client's processor time is that of the worker, the client of the database.
    """

    def __init__(
        self, name: str, runner: asyncio.Runner, workers: list[HttpWorker], path: str, server: ServerCpu
    ) -> None:
        self.name = name
        self._runner = runner
        self._endpoints = [worker.url + path for worker in workers]
        self._cpu = [ServerCpu(worker.pid) for worker in workers]
        self._server = server
        self._http, self._clients = runner.run(self._arrived())

    def can(self, operation: str) -> bool:
        """Tell whether this is something that the contender can do: some cannot restore a session."""
        return operation != Operation.RESTORE or len(self._endpoints) > 1

    def burst(self, discipline: Discipline, seconds: float) -> Measured:
        """Carry out one burst."""
        if discipline.operation == Operation.RESTORE:
            return self._runner.run(self._restore(round(seconds * _RESTORES_PER_SECOND)))
        act = self._call if discipline.operation == Operation.CALL else self._open
        measuring = burst(
            act,
            numbers=itertools.cycle(range(_SESSIONS)),
            callers=discipline.callers,
            seconds=seconds,
            server=self._server,
            client_cpu=self._cpu[0].used,
        )
        return self._runner.run(measuring)

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._http.close())

    async def _arrived(self) -> tuple[aiohttp.ClientSession, list[_Client]]:
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE_SECONDS),
        )
        clients = await asyncio.gather(*(_Client.opened(http, self._endpoints[0]) for _ in range(_SESSIONS)))
        await clients[0].at(self._endpoints[-1]).add()
        return http, clients

    async def _call(self, number: int) -> None:
        await self._clients[number].add()

    async def _open(self, _: int) -> None:
        await _Client.opened(self._http, self._endpoints[0])

    async def _restore(self, count: int) -> Measured:
        """Call once on each of some sessions that the other worker has opened."""
        there = [(await _Client.opened(self._http, self._endpoints[0])).at(self._endpoints[1]) for _ in range(count)]

        async def restore(number: int) -> None:
            await there[number].add()

        return await each_once(restore, sessions=count, server=self._server, client_cpu=self._cpu[1].used)
