"""``requestState`` over workers: sealed with shared keys, opened by any, and used once."""

import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from pydantic import BaseModel

from mcp_sessions import ConfigurationError, SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.mcp import request_state_security, run_once
from tests.http.test_handles import NewClient
from tests.support.asgi import Browser, browsing
from tests.support.concurrency import together
from tests.support.rows import Rows

KEY, OTHER = (base64.b64encode(bytes([n]) * 32).decode() for n in range(2))


class Sure(BaseModel):
    """Whether the user is sure."""

    sure: bool


def ask() -> Elicit[Sure]:
    """Ask the user."""
    return Elicit("Pay?", Sure)


class Till:
    """What was paid, on all workers of this process."""

    def __init__(self) -> None:
        self.paid = 0

    def app(self, keys: str | None, *, once: bool = True) -> Any:
        """An app that pays once its user is sure."""
        security = None if keys is None else request_state_security(encryption_keys=keys)
        server: MCPServer[Any] = MCPServer("till", log_level="WARNING", request_state_security=security)

        @server.tool()
        async def pay(answer: Annotated[Sure, Resolve(ask)]) -> str:
            self.paid += answer.sure
            return f"paid {self.paid}"

        if once:
            run_once(server, "pay")
        return server.streamable_http_app(json_response=True)


class Start:
    """Starts workers on the database of the test."""

    def __init__(self, url: str, stack: contextlib.AsyncExitStack) -> None:
        self._url = url
        self._stack = stack

    async def __call__(self, app: Any) -> Browser:
        """Start one."""
        durable = DurableSessions(app, database_url=self._url)
        await self._stack.enter_async_context(durable.lifespan())
        return await self._stack.enter_async_context(browsing(durable))


@pytest.fixture
async def start(database_url: str) -> AsyncIterator[Start]:
    """Starts workers, and shuts them down after the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield Start(database_url, stack)


async def asked(worker: Browser) -> dict[str, Any]:
    """Call the tool, and return what it asks, answered."""
    client = NewClient(worker, capabilities={"elicitation": {"form": {}}})
    result = await client.tool("pay")
    (question,) = result["inputRequests"]
    answers = {question: {"action": "accept", "content": {"sure": True}}}
    return {"name": "pay", "arguments": {}, "requestState": result["requestState"], "inputResponses": answers}


async def answered(worker: Browser, answer: dict[str, Any]) -> Any:
    """Answer at a worker."""
    return await NewClient(worker, capabilities={"elicitation": {"form": {}}}).send("tools/call", answer)


async def test_any_worker_takes_the_answer(start: Start) -> None:
    """A question that one worker asked is answered at another one, also with a key that is not the first."""
    till = Till()
    one, other = await start(till.app(KEY)), await start(till.app(f"{OTHER},{KEY}"))
    assert (await answered(other, await asked(one)))["content"][0]["text"] == "paid 1"


async def test_an_answer_is_taken_once(start: Start, database_url: str) -> None:
    """However often an answer comes, one after the other or at once on several workers, the tool runs once for it."""
    till = Till()
    workers = [await start(till.app(KEY)) for _ in range(3)]
    for number in range(1, 4):
        answer = await asked(workers[0])
        results = await together(*(answered(workers[n % 3], answer) for n in range(9)))
        assert till.paid == number
        assert [bool(each.get("isError")) for each in results].count(False) == 1
        assert "not done again" in next(each for each in results if each.get("isError"))["content"][0]["text"]
        assert (await answered(workers[1], answer))["isError"]
    assert till.paid == 3
    assert await Rows(database_url).count("key_values") == 3


async def test_a_use_is_remembered_for_its_lifetime(start: Start, database_url: str) -> None:
    """Until its lifetime is over, a use is kept by each cleanup, and refused on every worker; then it is removed."""
    till = Till()
    one, other = await start(till.app(KEY)), await start(till.app(KEY))
    answer = await asked(one)
    assert (await answered(one, answer))["content"][0]["text"] == "paid 1"
    rows = Rows(database_url)
    async with SessionManager.open(database_url) as manager:
        await rows.age_all(timedelta(minutes=19), table="key_values")
        await manager.cleanup_stale_sessions()
        assert (await answered(other, answer))["isError"]
        assert (till.paid, await rows.count("key_values")) == (1, 1)
        await rows.age_all(timedelta(minutes=1, seconds=1), table="key_values")
        await manager.cleanup_stale_sessions()
        assert await rows.count("key_values") == 0


async def test_what_was_not_sealed_by_us_leaves_no_trace(start: Start, database_url: str) -> None:
    """A state that no key opens is refused by the SDK, and is not remembered."""
    till = Till()
    worker = await start(till.app(KEY))
    answer = await asked(worker)
    with pytest.raises(AssertionError):
        await answered(worker, {**answer, "requestState": "v1.forged"})
    assert till.paid == 0
    assert await Rows(database_url).count("key_values") == 0
    assert (await answered(worker, answer))["content"][0]["text"] == "paid 1"


async def test_without_the_ledger_an_answer_is_taken_again(start: Start) -> None:
    """What the ledger is for: the SDK alone has the tool run each time."""
    till = Till()
    worker = await start(till.app(KEY, once=False))
    answer = await asked(worker)
    for _ in range(2):
        await answered(worker, answer)
    assert till.paid == 2


def test_keys_are_needed() -> None:
    """Without keys there is nothing that workers could share, and an error says so."""
    with pytest.raises(ConfigurationError, match="encryption_keys"):
        request_state_security()
