"""What the log of each usual server says: every 500 and 503 of ours once, with the cure, and no echo of it."""

import os
import re
import signal
import sys
from collections.abc import Iterator

import httpx2
import pytest

from tests.support.mcp_client import INITIALIZE, INITIALIZED
from tests.support.processes import GuardedServer, accepts, free_port
from tests.support.serving import in_session

APP = "tests.support.served_logs:app"
SERVERS = {
    "uvicorn": ("uvicorn", "--port", "{port}"),
    "gunicorn": ("gunicorn", "--worker-class", "asgi", "--bind", "127.0.0.1:{port}"),
    "gunicorn with uvicorn": ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:{port}"),
    "hypercorn": ("hypercorn", "--bind", "127.0.0.1:{port}"),
}
SET_UPS = [
    ("uvicorn", "nobody"),
    ("uvicorn", "sdk"),
    ("uvicorn", "fastmcp"),
    ("uvicorn", "configured"),
    ("gunicorn", "nobody"),
    ("gunicorn with uvicorn", "configured"),
    ("hypercorn", "nobody"),
    ("hypercorn", "configured"),
]
ECHOES = re.compile(
    "Created new transport|Rejected request|Terminating session|Context impl|Running upgrade|manager started"
)


class Logged:
    """A server of the tests' app."""

    def __init__(self, make: str, kind: str) -> None:
        self.port = free_port()
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "KIND": kind, "COLUMNS": "300", "PYTHONUNBUFFERED": "1"}
        self._server = GuardedServer("logged", account={}, environment=environment)
        self._command = [sys.executable, "-m", *(part.format(port=self.port) for part in SERVERS[make]), APP]

    def start(self) -> None:
        """Start it, and return once it accepts requests."""
        self._server.start(*self._command, ready=lambda: accepts(self.port), seconds=40)

    def close(self) -> None:
        """End it: gunicorn passes a SIGQUIT on to workers of uvicorn, which do not know it."""
        self._server.end(signal.SIGTERM)
        self._server.close()

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._server.log


@pytest.fixture
def logged(request: pytest.FixtureRequest) -> Iterator[Logged]:
    """A server, and who sets up logging in it."""
    server = Logged(*request.param)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("logged", SET_UPS, ids=[" ".join(each) for each in SET_UPS], indirect=True)
@pytest.mark.slow
def test_each_500_and_503_is_told_once_with_the_cure(logged: Logged) -> None:
    """In every set-up of logging, a 500 and a 503 of ours leave one line each, and ordinary life leaves no echo."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{logged.port}", headers=in_session("never-was"), timeout=30) as http:
        assert http.post("/mcp", json=INITIALIZED).status_code == 404
        del http.headers["mcp-session-id"]
        http.headers["mcp-session-id"] = http.post("/mcp", json=INITIALIZE).headers["mcp-session-id"]
        assert http.post("/mcp", json=INITIALIZED).status_code == 202
        assert not ECHOES.search(logged.log), logged.log
        assert "mcp-sessions answered" not in logged.log
        assert http.post("/forgotten/mcp", json=INITIALIZE).status_code == 500
        assert http.get("/lose").text == "lost"
        assert http.post("/mcp", json=INITIALIZED).status_code == 503
    for status, cure in ((500, "must pass lifespan=durable.lifespan"), (503, "run 'mcp-sessions db upgrade'")):
        (line,) = (line for line in logged.log.splitlines() if f"mcp-sessions answered {status}" in line)
        assert cure in line, logged.log
