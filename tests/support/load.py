"""Clients that keep several workers busy, and remember what they were promised.

Each opens sessions, calls tools, ends sessions and tries ended ones again, every request at a worker of chance. What
was acknowledged is remembered: an open session is served from then on, an ended one never again. Where the answer to
a DELETE never came, either is right until the first 404. Whatever is answered otherwise is noted as wrong.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from tests.support.asgi import Response
from tests.support.mcp_client import INITIALIZE, INITIALIZED, RawClient, call
from tests.support.polling import until
from tests.support.sockets import ConnectionCutError, SocketBrowser, SocketExchange

_PAUSE_AFTER_A_CUT = 0.1
_OPEN_AT_LEAST = 3
_FAULT = 503


class Load:
    """What many clients do to workers, and what came of it.

    A test names each ``phase``. An answer belongs to a phase if the request was sent in it too. In the phases of
    ``faults_in``, a 503 that says when to come again is a right answer to anything.
    """

    def __init__(self, ports: Sequence[int], *, faults_in: Sequence[str] = (), seed: int = 1) -> None:
        self.phase = "begin"
        self.answers: Counter[tuple[str, int]] = Counter()
        self.slowest: dict[str, float] = {}
        self.cuts = 0
        self.wrong: list[str] = []
        self._open: set[str] = set()
        self._ended: set[str] = set()
        self._doubtful: set[str] = set()
        self._ports = ports
        self._faults_in = faults_in
        self._chance = random.Random(seed)  # noqa: S311  # a test that can be repeated, not a secret
        self._browsers: list[SocketBrowser] = []
        self._stopping = False

    @contextlib.asynccontextmanager
    async def running(self, *, clients: int = 12) -> AsyncIterator[None]:
        """Keep that many clients busy."""
        self._stopping = False
        async with asyncio.TaskGroup() as group:  # which ends with the first client that fails
            for _ in range(clients):
                group.create_task(self._client(_Doors(self._ports, self._browsers)))
            try:
                yield
            finally:
                self._stopping = True
        await asyncio.gather(*(browser.close() for browser in self._browsers))

    @property
    def open_sessions(self) -> int:
        """How many sessions are certainly open."""
        return len(self._open)

    @property
    def ended_sessions(self) -> int:
        """How many sessions have certainly ended."""
        return len(self._ended)

    async def answered(self, count: int, phase: str | None = None) -> None:
        """Wait for so many more answers to requests of this phase."""
        if phase is not None:
            self.phase = phase
        wanted = self.in_phase(self.phase).total() + count
        await until(lambda: self.in_phase(self.phase).total() >= wanted, patience=60)

    def in_phase(self, phase: str) -> Counter[int]:
        """How often each status answered a request of this phase."""
        return Counter({status: count for (at, status), count in self.answers.items() if at == phase})

    async def check_promises(self) -> None:
        """Try every session at every worker, now that all is quiet."""
        self.phase = "check"
        browsers: list[SocketBrowser] = []
        doors = _Doors(self._ports, browsers)
        for port in self._ports:
            for session_id in [*self._open, *self._doubtful, *self._ended]:
                await self._use(doors.at(port, session_id))
        await asyncio.gather(*(browser.close() for browser in browsers))

    async def _client(self, doors: "_Doors") -> None:
        mine: list[str] = []
        actions: list[Callable[[RawClient[SocketExchange]], Coroutine[Any, Any, None]]]
        while not self._stopping:
            with contextlib.suppress(ConnectionCutError):
                if len(mine) < _OPEN_AT_LEAST:
                    await self._begin(doors.any_for(self._chance), mine)
                session_id = self._chance.choice(mine)
                actions = [self._use] * 8 + [self._use_twice_at_once(doors)] * 2
                if session_id != mine[0]:  # the first one is to outlive everything that happens
                    actions.append(self._end)
                await self._chance.choice(actions)(doors.any_for(self._chance, session_id))
            mine = [session_id for session_id in mine if session_id not in self._ended or self._chance.random() < 0.8]

    async def _begin(self, client: RawClient[SocketExchange], mine: list[str]) -> None:
        response = await self._send(client, "POST", INITIALIZE, right=200)
        if response.status != 200:
            return
        client.session_id = response.headers["mcp-session-id"]
        if client.session_id in self._open | self._ended | self._doubtful:
            self.wrong.append("an id was given twice")
        self._open.add(client.session_id)
        mine.append(client.session_id)
        await self._send(client, "POST", INITIALIZED, right=202)

    async def _use(self, client: RawClient[SocketExchange]) -> None:
        right = 404 if client.session_id in self._ended else 200
        one = self._chance.randrange(1000)
        response = await self._send(client, "POST", call("add", a=one, b=1), right=right)
        if response.status == 200 and response.message["result"]["content"][0]["text"] != str(one + 1):
            self.wrong.append("the answer to another call")

    def _use_twice_at_once(self, doors: "_Doors") -> Callable[[RawClient[SocketExchange]], Coroutine[Any, Any, None]]:
        async def use(client: RawClient[SocketExchange]) -> None:
            other = doors.any_for(self._chance, client.session_id)
            results = await asyncio.gather(self._use(client), self._use(other), return_exceptions=True)
            if unexpected := [one for one in results if one and not isinstance(one, ConnectionCutError)]:
                raise unexpected[0]

        return use

    async def _end(self, client: RawClient[SocketExchange]) -> None:
        assert client.session_id is not None
        right = 404 if client.session_id in self._ended else 204
        try:
            response = await self._send(client, "DELETE", right=right)
        except ConnectionCutError:
            self._doubt(client.session_id)
            raise
        if response.status == 204:
            self._note_end(client.session_id)
        elif response.status == _FAULT:
            self._doubt(client.session_id)

    async def _send(
        self, client: RawClient[SocketExchange], method: str, message: Any = None, *, right: int
    ) -> Response:
        sent_in, began = self.phase, time.monotonic()
        try:
            response = await client.send(method, message)
        except ConnectionCutError:
            self.cuts += 1
            await asyncio.sleep(_PAUSE_AFTER_A_CUT)
            raise
        phase = sent_in if sent_in == self.phase else f"{sent_in}, then {self.phase}"
        took = time.monotonic() - began
        self.slowest[phase] = max(self.slowest.get(phase, 0), took)
        self.answers[phase, response.status] += 1
        if response.status != right and not self._is_fault(response, {sent_in, self.phase}):
            if response.status == 404 and client.session_id in self._doubtful | self._ended:
                self._note_end(client.session_id)
            else:
                self.wrong.append(f"{phase}: {method} got {response.status}, not {right}, after {took:.1f} s")
        return response

    def _is_fault(self, response: Response, phases: set[str]) -> bool:
        tolerated = not phases.isdisjoint(self._faults_in)
        return tolerated and response.status == _FAULT and int(response.headers["retry-after"]) >= 1

    def _doubt(self, session_id: str) -> None:
        if session_id in self._open:
            self._open.discard(session_id)
            self._doubtful.add(session_id)

    def _note_end(self, session_id: str | None) -> None:
        assert session_id is not None
        self._open.discard(session_id)
        self._doubtful.discard(session_id)
        self._ended.add(session_id)


class _Doors:
    """One client's connections, one to each worker at a time."""

    def __init__(self, ports: Sequence[int], browsers: list[SocketBrowser]) -> None:
        self._browsers = {port: SocketBrowser(port) for port in ports}
        browsers += self._browsers.values()

    def at(self, port: int, session_id: str | None = None) -> RawClient[SocketExchange]:
        client = RawClient(self._browsers[port])
        client.session_id = session_id
        return client

    def any_for(self, chance: random.Random, session_id: str | None = None) -> RawClient[SocketExchange]:
        return self.at(chance.choice(list(self._browsers)), session_id)
