"""Many questions at once across four workers: each answer reaches the call that asked, and reaches it once."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.e2e.conftest import Connect, StartWorkers
from tests.support.mcp_client import INITIALIZE, INITIALIZED, RawClient, call
from tests.support.rows import Rows
from tests.support.sockets import SocketBrowser, SocketExchange

WORKERS, CALLERS, SESSIONS = 4, 40, 20
ACTIONS = ("accept", "decline", "cancel")

MANY = [
    pytest.param(200, marks=pytest.mark.timeout(180)),
    pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]


class Conversations:
    """Callers who are asked at one worker and answer at another, and what became of it."""

    def __init__(self, browsers: Sequence[SocketBrowser]) -> None:
        self._browsers = browsers
        self.asked: Counter[str] = Counter()
        self.results: dict[int, str] = {}

    async def hold(self, count: int) -> None:
        """Ask so many questions, many of them at once, several of them in each session."""
        clients = [await self._opened(number) for number in range(SESSIONS)]
        numbers = iter(range(count))

        async def caller(client: RawClient[SocketExchange]) -> None:
            for number in numbers:
                self.results[number] = await self._answered(client, number)

        async with asyncio.TaskGroup() as group:
            for place in range(CALLERS):
                group.create_task(caller(clients[place % SESSIONS]))

    async def _opened(self, number: int) -> RawClient[SocketExchange]:
        client = RawClient(self._browser(number))
        params = {**INITIALIZE["params"], "capabilities": {"elicitation": {}}}
        response = await client.post({**INITIALIZE, "params": params})
        client.session_id = response.headers["mcp-session-id"]
        assert (await client.post(INITIALIZED)).status == 202
        return client

    async def _answered(self, client: RawClient[SocketExchange], number: int) -> str:
        """Call at one worker, and answer at the next one; every tenth answer is sent twice."""
        calling = client.at(self._browser(number)).begin("POST", call("confirm", question=f"{number}?"))
        (question,) = await calling.asked("elicitation/create")
        self.asked[question["params"]["message"]] += 1
        self.asked[question["id"]] += 1
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": ACTIONS[number % 3]}}
        for other in range(2 if number % 10 == 0 else 1):
            answered = await client.at(self._browser(number + 1 + other)).post(answer)
            assert answered.status == 202, answered
        result = (await calling.response()).message["result"]
        return str(result["content"][0]["text"])

    def check(self, count: int) -> None:
        """Each call was told what its own user said; no question and no id of one came twice."""
        assert self.results == {number: f"{ACTIONS[number % 3]}: {number}?" for number in range(count)}
        assert len(self.asked) == 2 * count
        assert set(self.asked.values()) == {1}

    def _browser(self, number: int) -> SocketBrowser:
        return self._browsers[number % len(self._browsers)]


@pytest.mark.parametrize("count", MANY)
@pytest.mark.slow
async def test_every_answer_finds_its_question(
    start_workers: StartWorkers, connect: Connect, database_url: str, count: int
) -> None:
    """However many are asked at the same time, each call is told what its own user said, once."""
    workers = start_workers(WORKERS, database_url, "sdk-sse")
    conversations = Conversations([connect(worker) for worker in workers])
    await conversations.hold(count)
    conversations.check(count)
    assert [worker.first_traceback for worker in workers] == [""] * WORKERS


@pytest.mark.parametrize("count", MANY)
@pytest.mark.slow
async def test_answers_arrive_though_nobody_can_listen(
    start_workers: StartWorkers, connect: Connect, postgres_url: str, count: int
) -> None:
    """Where the connections that listen for wake-ups are cut again and again, the same holds."""
    workers = start_workers(WORKERS, postgres_url, "sdk-sse")
    conversations = Conversations([connect(worker) for worker in workers])
    async with cutting_listeners(postgres_url) as cuts:
        await conversations.hold(count)
    assert len(cuts) > WORKERS
    conversations.check(count)
    assert [worker.first_traceback for worker in workers] == [""] * WORKERS


@contextlib.asynccontextmanager
async def cutting_listeners(url: str) -> AsyncIterator[list[int]]:
    """Cut the connections that listen, a few times a second; gives their process ids."""
    cuts: list[int] = []
    rows = Rows(url)

    async def cut() -> None:
        while True:
            query = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            cuts.extend(row["pid"] for row in await rows.fetch(query))
            await asyncio.sleep(0.2)

    cutting = asyncio.create_task(cut())
    try:
        yield cuts
    finally:
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
