"""A rolling restart behind a real nginx that is set up as the page has it."""

import asyncio
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mcp_client import RawClient, call
from tests.support.nginx import nginx_program, running_nginx
from tests.support.polling import until
from tests.support.processes import free_port
from tests.support.serving import Serve
from tests.support.sockets import SocketExchange, connected

CLIENTS = 3
CALLS = 30  # between one step and the next
APP = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("notes", log_level="WARNING")


@server.tool()
def add(a: int, b: int) -> int:
    return a + b
"""


@pytest.fixture
def nginx() -> str:
    """The program."""
    program = nginx_program()
    if program is None:
        pytest.skip("no nginx on this machine (Debian and Ubuntu: apt-get install nginx)")
    return program


class Roll:
    """Two servers on one database, replaced one after the other."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (folder / "notes.py").write_text(APP)
        self._folder = folder
        self._stack = stack
        self.ports = [free_port(), free_port()]
        self.answers: Counter[int] = Counter()
        self.over = False
        self._servers = [self._start(port) for port in self.ports]
        for place in range(len(self._servers)):
            self._wait_for(place)

    def _start(self, port: int) -> Serve:
        everywhere = ("--host", "0.0.0.0")  # noqa: S104 - else the SDK refuses the name that nginx passes on
        return self._stack.enter_context(Serve(self._folder, "notes:server", *everywhere, "--port", str(port)))

    def _wait_for(self, place: int) -> None:
        assert self._servers[place].endpoint

    async def restart(self, count: int) -> None:
        """Replace that many servers, one after the other, once calls have come in between."""
        for place, port in enumerate(self.ports[:count]):
            await self._some_calls()
            assert await asyncio.to_thread(self._servers[place].stop) == 0
            await self._some_calls()
            self._servers[place] = self._start(port)
            await asyncio.to_thread(self._wait_for, place)
        await self._some_calls()
        self.over = True

    async def _some_calls(self) -> None:
        wanted = self.answers.total() + CALLS
        await until(lambda: self.answers.total() >= wanted, patience=40)

    async def call(self, client: RawClient[SocketExchange]) -> None:
        """Call without a pause until all is over."""
        await client.initialize()
        while not self.over:
            self.answers[(await client.post(call("add", a=1, b=2))).status] += 1


@pytest.mark.timeout(150)  # three or four servers start
@pytest.mark.parametrize("replaced", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.slow
async def test_a_rolling_restart_fails_no_call(tmp_path: Path, nginx: str, replaced: int) -> None:
    """With one server after the other replaced, every call that is made meanwhile is answered."""
    with ExitStack() as stack:
        roll = Roll(tmp_path, stack)
        port = stack.enter_context(running_nginx(nginx, roll.ports))
        async with connected(port) as browser, asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(roll.call(RawClient(browser)))
            await roll.restart(replaced)
    assert roll.answers == {200: roll.answers.total()}
