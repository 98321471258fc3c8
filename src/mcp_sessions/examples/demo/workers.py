"""Workers of the demo: processes of ``mcp-sessions serve``, killed as hard as a machine that loses its power."""

import asyncio
import contextlib
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import cast

from mcp_sessions.examples.demo import DemoFailedError

_SERVE = ("-m", "mcp_sessions", "serve", "--port", "0", "--log-level", "warning", "--no-access-log")
_ENDPOINT = re.compile(rb"http://\S+")
_PATIENCE_SECONDS = 30


class Worker:
    """One worker: a process on a port of its own."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.pid = process.pid
        self.endpoint = ""
        self._process = process

    async def listening(self) -> None:
        """Return when it listens.

        Raises:
            DemoFailedError: it does not.
        """
        output = cast("asyncio.StreamReader", self._process.stdout)  # a pipe, and so not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                async for line in output:
                    if found := _ENDPOINT.search(line):
                        self.endpoint = found.group().decode()
                        return
        raise DemoFailedError(f"worker {self.name} did not start")

    async def kill(self) -> None:
        """Kill it with SIGKILL, and return when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


class Workers:
    """Starts workers with the same settings; ``log`` is the file that they log to."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._environment = os.environ | settings
        self._started: list[Worker] = []

    async def start(self, *names: str) -> list[Worker]:
        """Start workers, and return them when they listen.

        Raises:
            DemoFailedError: one does not.
        """
        workers = [await self._start(name) for name in names]
        for worker in workers:
            await worker.listening()
        return workers

    async def _start(self, name: str) -> Worker:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *_SERVE, env=self._environment, stdin=DEVNULL, stdout=PIPE, stderr=log
            )
        worker = Worker(name, process)
        self._started.append(worker)
        return worker

    async def kill_all(self) -> None:
        """Leave none behind."""
        for worker in self._started:
            await worker.kill()


@contextlib.asynccontextmanager
async def workers_with(settings: Mapping[str, str], log: Path) -> AsyncIterator[Workers]:
    """Workers, of which no process is left in the end."""
    workers = Workers(settings, log)
    try:
        yield workers
    finally:
        await workers.kill_all()
