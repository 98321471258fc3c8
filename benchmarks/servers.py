"""The servers of the contest, on loopback ports, gone when it ends: a Postgres and a Redis of its own, HTTP workers."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.postgres import PostgresServer
from tests.support.processes import GuardedServer, accepts, free_port

POSTGRES_SETTINGS = {
    "shared_buffers": f"{psutil.virtual_memory().total // 4 // 2**20}MB",  # what its documentation advises
    "max_wal_size": "4GB",  # no checkpoint within a burst
    "checkpoint_timeout": "30min",
    "wal_buffers": "16MB",
}
"""All durable: fsync, synchronous_commit and full_page_writes are on, as by default."""

_IN_MEMORY = {"tmpfs", "ramfs"}


def settle_on_a_disk() -> Path:
    """Put temporary folders where fsync means something, and return that place."""
    for candidate in (tempfile.gettempdir(), "/var/tmp", str(Path.cwd())):  # noqa: S108 - mkdtemp is used there
        if _file_system(Path(candidate)) not in _IN_MEMORY:
            tempfile.tempdir = candidate
            return Path(candidate)
    raise RuntimeError("no temporary folder on a disk was found; name one: TMPDIR=/path scripts/bench")


def _file_system(folder: Path) -> str:
    mounts = {partition.mountpoint: partition.fstype for partition in psutil.disk_partitions(all=True)}
    inside = [folder, *folder.resolve().parents]
    return next((mounts[str(each)] for each in inside if str(each) in mounts), "")


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Run a Postgres that keeps what it commits."""
    with PostgresServer(fsync=True, settings=POSTGRES_SETTINGS) as server:
        yield server


def redis_program() -> Path | None:
    """Return the program of the Redis server, if there is one."""
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


class RedisServer:
    """A Redis that appends every write to its log, and syncs that log as told: ``everysec`` or ``always``."""

    def __init__(self, program: Path, appendfsync: str) -> None:
        self.port = free_port()
        self._server = GuardedServer("redis")
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --appendfsync {appendfsync} --daemonize no"
        try:
            self._server.start(
                program, *options.split(), "--save", "", "--dir", self._server.folder, ready=self._is_ready
            )
        except BaseException:
            self._server.close()
            raise

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._server.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Stop it and remove its files."""
        self._server.close()

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def running_redis(program: Path, appendfsync: str) -> Iterator[RedisServer]:
    """Run a Redis; ``appendfsync`` says what an acknowledged write survives."""
    server = RedisServer(program, appendfsync)
    try:
        yield server
    finally:
        server.close()


def environment_of(checkout: Path | None) -> dict[str, str]:
    """Return what has Python find this package and its benchmark in another checkout, or where it found them here."""
    first = [] if checkout is None else [str(checkout), str(checkout / "src")]
    return {"PYTHONPATH": os.pathsep.join([*first, *sys.path])}


class HttpWorker:
    """A uvicorn process with a contender's app (see ``served``); ``checkout`` is that of another version of it."""

    def __init__(self, kind: str, url: str, checkout: Path | None = None) -> None:
        self._port = free_port()
        self._server = GuardedServer(kind, account={}, environment=environment_of(checkout))
        self._command = (sys.executable, "-m", "benchmarks.served", kind, url, str(self._port))

    def start(self) -> None:
        """Return once it accepts requests; raise RuntimeError with its log where it does not."""
        self._server.start(*self._command, ready=lambda: accepts(self._port), seconds=60)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._server.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        """Stop it."""
        self._server.close()
