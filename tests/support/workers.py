"""Worker processes: real ones, killed hard, restarted on their port, and gone after the test."""

import os
import re
import signal
import sys
from typing import Any

from mcp_sessions.asgi import HttpSettings
from tests.support.processes import GuardedServer, accepts, free_port, poll

_RESTORED = re.compile(r"session restored on this worker \(session (\w+)\)")


class Worker:
    """One worker process on a loopback port, which stays its own across restarts."""

    def __init__(self, kind: str, database_url: str, *, auth: bool = False, **settings: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = {"database_url": database_url, "tenant_claim": "tenant", "check_interval": 0.2, **settings}
        environment = {_variable(name): str(value) for name, value in settings.items()}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        self._command = (sys.executable, "-m", "tests.support.worker", kind, "auth" if auth else "open", str(self.port))
        self._server = GuardedServer("worker", account={}, environment=environment)

    def start(self) -> None:
        """Start it, and return once it accepts requests."""
        self._server.start(*self._command, ready=lambda: accepts(self.port), seconds=40)

    def kill(self) -> None:
        """End it hard, in the middle of whatever it does."""
        self._server.end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it again on the same port."""
        self.kill()
        self.start()

    def begin_to_stop(self) -> None:
        """Send it SIGTERM and return at once."""
        os.kill(self._server.pid, signal.SIGTERM)

    def wait_until_stopped(self, *, seconds: float) -> int | None:
        """Wait for its end after ``begin_to_stop``; return its exit code, negative where a signal ended it."""
        poll(lambda: not self._server.running, seconds=seconds, waiting_for="the worker to stop")
        return self._server.end(signal.SIGKILL)

    @property
    def log(self) -> str:
        """All that it has written since its first start."""
        return self._server.log

    @property
    def first_traceback(self) -> str:
        """The first one in its log and all after it; nothing where all went well."""
        return "".join(self.log.partition("Traceback")[1:])

    @property
    def restored(self) -> list[str]:
        """The sessions that it has restored, one entry for each time."""
        return _RESTORED.findall(self.log)

    def close(self) -> None:
        """End it, and remove all that is left of it."""
        self._server.close()


def _variable(name: str) -> str:
    prefix = "MCP_SESSIONS_HTTP_" if name in HttpSettings.model_fields else "MCP_SESSIONS_"
    return f"{prefix}{name.upper()}"
