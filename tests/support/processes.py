"""Run real servers from tests, so that nothing of them outlives the tests.

Each server has a temporary folder and a guardian: a shell that waits for its standard input to close. The
kernel closes it when the tests end, however they end, SIGKILL included; the guardian then stops the server
and removes the folder.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

# $1 is the server's folder. The server has ten seconds to end by itself.
_GUARDIAN = """
trap '' HUP INT TERM
cat >/dev/null
pid=$(cat "$1/pid" 2>/dev/null)
tries=0
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && [ "$tries" -le 110 ]; do
    case $tries in
        0) kill -QUIT "$pid"; kill -CONT "$pid" ;;
        100) kill -KILL "$pid" ;;
    esac
    tries=$((tries + 1))
    sleep 0.1
done
rm -rf "$1"
"""


class Account(TypedDict, total=False):
    """Arguments of `subprocess.Popen` that name who a process runs as."""

    user: int
    group: int
    extra_groups: list[int]


def unprivileged() -> Account:
    """Return an account that database servers agree to run as: they refuse root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def free_port() -> int:
    """Return a free loopback port outside the range that the kernel gives to outgoing connections.

    From inside that range, a client that retries while the server is down can be given the server's own port,
    connect to itself and keep the server from coming back.
    """
    for port in random.sample(range(15_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port among a hundred tried")


def accepts(port: int) -> bool:
    """Tell whether somebody accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def poll(condition: Callable[[], bool], *, seconds: float, waiting_for: str) -> None:
    """Wait until the condition holds; raise TimeoutError, naming it, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still waiting for {waiting_for} after {seconds} s")
        time.sleep(0.005)


class GuardedServer:
    """One server program: its account, its folder, its log and its process, under a guardian until `close`.

    `in_memory` asks for a folder in memory; a machine with little of it gives one on its disk. `account` is by
    default one that database servers agree to run as; `environment` is all that the server gets of it.
    """

    def __init__(
        self,
        name: str,
        *,
        in_memory: bool = False,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.account = unprivileged() if account is None else account
        self._environment = {"PATH": os.defpath, "LC_ALL": "C", **(environment or {})}
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_memory() if in_memory else None))
        self._guardian = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN, "guardian", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "log"
        self._log.touch()
        self.give(self.folder)

    @property
    def running(self) -> bool:
        """Whether the server's process lives; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is stopped")
        return self._process.pid

    def give(self, path: Path) -> None:
        """Hand a file or a folder, with what is in it, to the server's account."""
        if self.account:
            for each in (path, *path.rglob("*")):
                os.chown(each, self.account["user"], self.account["group"], follow_symlinks=False)

    def run(self, *command: str | Path) -> None:
        """Run a command to its end as the server's account; raise RuntimeError with its log when it fails."""
        with self._log.open("ab") as log:
            result = subprocess.run(
                command,
                **self.account,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=30,
                check=False,
            )
        if result.returncode:
            raise RuntimeError(f"{Path(command[0]).name} failed:\n{self._log_tail()}")

    def start(self, *command: str | Path, ready: Callable[[], bool], seconds: float = 20) -> None:
        """Start the server and return when it is ready; raise RuntimeError with its log when it does not."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                **self.account,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self.pid))
        up = False
        try:
            poll(lambda: not self.running or ready(), seconds=seconds, waiting_for=f"{self.name} to start")
            up = self.running
        except TimeoutError as error:
            raise RuntimeError(f"{error}:\n{self._log_tail()}") from error
        finally:
            if not up:
                self.end(signal.SIGQUIT)
        if not up:
            raise RuntimeError(f"{self.name} ended as it started:\n{self._log_tail()}")

    def end(self, number: signal.Signals) -> int | None:
        """Signal the server and wait for its end, if need be with SIGKILL; do nothing if it is stopped.

        Return its exit code, negative where a signal ended it.
        """
        if self._process is None:
            return None
        self._process.send_signal(number)
        try:
            code = self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(timeout=10)
        self._process = None
        (self.folder / "pid").unlink()  # it may soon be the pid of a process that the guardian must not touch
        return code

    def close(self) -> None:
        """End the server if it still runs, and have the guardian remove the folder."""
        try:
            self.end(signal.SIGQUIT)
        finally:
            self._guardian.communicate(timeout=30)

    @property
    def log(self) -> str:
        """All that the server has written so far, from its first start on."""
        return self._log.read_text(errors="replace")

    def _log_tail(self) -> str:
        return self.log[-4000:]


def _memory() -> Path | None:
    """Return the machine's folder in memory if programs can run from it and two gigabytes are to spare."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    if not os.access(memory, os.W_OK) or os.statvfs(memory).f_flag & os.ST_NOEXEC:
        return None
    return memory if shutil.disk_usage(memory).free > 2 * 2**30 else None
