"""Keys that are rotated while workers write and read, by the command that operators have, killed in the middle too."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.records.sessions import Session
from mcp_sessions.sealing import key_id_of
from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.polling import until
from tests.support.rows import Rows
from tests.support.states import one_more, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(6)]
KEPT = 6_000
"""Values that nobody changes: thirty batches of a reencryption."""

TABLES = ("session_handshakes", "client_settings", "session_state", "key_values")
"""All that may hold sealed texts."""


class Load:
    """Callers who write and read by the workers in turn, each checking what comes back against what was stored."""

    def __init__(self, workers: Sequence[SessionManager], session: Session) -> None:
        self.workers = workers
        self.stored: dict[str, int] = dict.fromkeys("abcd", 0)
        self._session = session
        self._stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the callers go on inside this context; what one of them found wrong ends it."""
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(self.stored):
                group.create_task(self._count(name, number))
                group.create_task(self._read(number))
            yield
            self._stopping = True

    async def settled(self) -> None:
        """Wait until each has written by the workers of now, and nobody by those before."""
        wanted = {name: count + 2 for name, count in self.stored.items()}
        await until(lambda: all(self.stored[name] >= count for name, count in wanted.items()), patience=60)

    async def check(self) -> None:
        """All that was stored, by the last word of each, is there."""
        for worker in self.workers:
            assert await worker.state(self._session).all() == self.stored
            counts = await together(*(worker.key_values.get("counts", name) for name in self.stored))
            assert [found and json.loads(found.text) for found in counts] == list(self.stored.values())
            kept = await together(*(worker.key_values.get("kept", str(n)) for n in range(KEPT)))
            assert [found and found.text for found in kept] == [f"value {n}" for n in range(KEPT)]

    async def _count(self, name: str, turn: int) -> None:
        while not self._stopping:
            turn += 1
            worker, other = (self.workers[(turn + n) % len(self.workers)] for n in range(2))
            number = await worker.state(self._session).update(name, one_more)
            assert number == self.stored[name] + 1
            await worker.key_values.put("counts", name, json.dumps(number), seconds=None)
            assert await other.state(self._session).get(name) == number
            found = await other.key_values.get("counts", name)
            assert found is not None
            assert found.text == json.dumps(number)
            self.stored[name] = number

    async def _read(self, turn: int) -> None:
        while not self._stopping:
            turn += 7919
            found = await self.workers[turn % len(self.workers)].key_values.get("kept", str(turn % KEPT))
            assert found is not None
            assert found.text == f"value {turn % KEPT}"


async def reencryption(url: str, ring: str) -> asyncio.subprocess.Process:
    """Start ``mcp-sessions db reencrypt``."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mcp_sessions", "db", "reencrypt", "--json", "--database-url", url),
        env={**os.environ, "MCP_SESSIONS_ENCRYPTION_KEYS": ring},
        stdout=subprocess.PIPE,
    )


async def sealed_with(rows: Rows, key: str) -> int:
    """How many of the values in the key-value store a key has sealed."""
    key_id = key_id_of(base64.b64decode(key))
    return int(await rows.value(f"SELECT count(*) AS n FROM key_values WHERE key_id = '{key_id}'"))


async def others(rows: Rows, key: str) -> int:
    """How many texts of any kind another key has sealed, or none."""
    key_id = key_id_of(base64.b64decode(key))
    counts = [f"(SELECT count(*) FROM {table} WHERE key_id <> '{key_id}' OR key_id IS NULL)" for table in TABLES]
    return int(await rows.value(f"SELECT {' + '.join(counts)} AS n"))


@pytest.mark.parametrize("rotations", [1, pytest.param(5, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
async def test_keys_are_rotated_under_load(
    open_manager: OpenManager, rows: Rows, database_url: str, rotations: int
) -> None:
    """By the steps of the page, each under load, with the command killed in the middle: every value stays readable."""

    async def workers(ring: str) -> Sequence[SessionManager]:
        return [await open_manager(encryption_keys=ring) for _ in range(2)]

    old = KEYS[0]
    load = Load(await workers(old), await opened(await open_manager()))
    values = load.workers[0].key_values
    await together(*(values.put("kept", str(n), f"value {n}", seconds=None) for n in range(KEPT)))
    async with load.running():
        for new in KEYS[1 : rotations + 1]:
            for ring in (f"{old},{new}", f"{new},{old}"):
                load.workers = await workers(ring)
                await load.settled()
            killed = await reencryption(database_url, f"{new},{old}")
            await until(partial(_has_begun, rows, new), patience=60)
            killed.send_signal(signal.SIGKILL)
            assert await killed.wait() == -signal.SIGKILL
            assert 0 < await sealed_with(rows, new) < KEPT
            again = await reencryption(database_url, f"{new},{old}")
            told, _ = await again.communicate()
            assert again.returncode == 0
            assert 0 < json.loads(told)["sealed"] < KEPT
            assert await others(rows, new) == 0
            load.workers = await workers(new)
            await load.settled()
            old = new
    await load.check()


async def _has_begun(rows: Rows, key: str) -> bool:
    return await sealed_with(rows, key) > KEPT // 10
