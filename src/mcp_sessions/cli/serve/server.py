"""Run an app under uvicorn: one process, or several that share a socket and are started again when they die.

The socket listens before the first worker starts, so that nobody who comes early is turned away. At SIGTERM or SIGINT
workers take no new connections, finish the answers in flight within a time limit, and end. So they do when the main
process is gone, however it went: nobody else could stop them, and they would keep the port. At SIGHUP several workers
are replaced one by one; a single process drains and then starts itself anew, while who connects waits.
"""

import asyncio
import copy
import errno
import ipaddress
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG, STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload, Multiprocess

from mcp_sessions.asgi import DurableSessions
from mcp_sessions.cli.serve.log_format import JsonLines, PlainAccessFormatter, PlainFormatter
from mcp_sessions.cli.serve.metrics import Metrics
from mcp_sessions.cli.serve.new_connections import STILL_ACCEPTING_SECONDS, refuse_new_connections
from mcp_sessions.errors import ConfigurationError

_BACKLOG = 2048
_IPV6 = 6
_KEPT_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the minute for which nginx and most load balancers keep
theirs. Else they would now and then send a request on a connection that is just being closed, and answer 502."""
_READY_WITHIN = 60
"""Seconds that the worker of a restart may take to serve: uvicorn's five are too few for an app that imports much on a
busy machine, and SIGHUP would leave the old workers with the old code."""
_SIGN_OF_LIFE_WITHIN = 10
"""Seconds in which a worker answers the main process, which handles no signal while it waits, and sees none die."""
_RESTARTED = "MCP_SESSIONS_SERVE_SOCKET"
"""Names, to a process that takes the place of its own earlier self, the socket that it goes on listening at."""


@dataclass(frozen=True)
class Serving:
    """How an app is served."""

    workers: int
    log_level: str
    access_log: bool
    metrics: Metrics | None = None
    in_json: bool = False
    reload: bool = False

    @property
    def in_children(self) -> bool:
        """Whether what serves is not the main process."""
        return self.workers > 1 or self.reload


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; at ``::`` it takes connections over IPv4, too, where the machine can.

    Raises:
        ConfigurationError: it cannot; the message says what to change.
    """
    if kept := os.environ.pop(_RESTARTED, None):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        return socket.socket(fileno=int(kept))
    if not host:
        raise ConfigurationError("--host is empty: name an address, or 0.0.0.0 or :: for everywhere")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = _is_everywhere_in_ipv6(host) and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} of {host} is taken: name another one with --port, or 0 for any that is free"
            ) from None
        raise ConfigurationError(f"cannot listen on port {port} of {host}: {error.strerror}") from None


def _is_everywhere_in_ipv6(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.version == _IPV6 and address.is_unspecified


def prepared(
    load: Callable[[], DurableSessions], app: DurableSessions, listener: socket.socket, how: Serving
) -> Callable[[], bool]:
    """Return what serves until a signal; it returns False where the app did not start.

    Signals are handled from now on. ``app`` is what ``load`` returned, for a single process; several load their own.
    """
    config = uvicorn.Config(
        _InWorker(load, how.metrics) if how.in_children else app,
        factory=how.in_children,
        interface="asgi3",
        lifespan="on",
        workers=how.workers,
        log_level=how.log_level,
        log_config=log_config(how),
        access_log=how.access_log,
        timeout_keep_alive=_KEPT_ALIVE,
        timeout_worker_healthcheck=_SIGN_OF_LIFE_WITHIN,
        timeout_graceful_shutdown=math.ceil(app.http_settings.drain_timeout.total_seconds()),
    )
    if how.metrics is not None:
        how.metrics.check()
    if how.in_children:
        return _reloading(config, listener) if how.reload else _many(config, listener)
    if how.metrics is not None:
        how.metrics.serve()
    return _one(config, listener)


def _reloading(config: uvicorn.Config, listener: socket.socket) -> Callable[[], bool]:
    config.reload_dirs = [Path.cwd()]  # where the app was found
    server = _Server(config)
    server.keeps_socket = True  # for the next one
    supervisor = ChangeReload(config, target=server.run, sockets=[listener])

    def run() -> bool:
        supervisor.run()
        return True

    return run


def _one(config: uvicorn.Config, listener: socket.socket) -> Callable[[], bool]:
    server = _Server(config)
    stops: list[int] = []
    kept: list[socket.socket] = []

    # uvicorn raises the signal again once it has shut down; that the server did as told is no failure.
    def stop(number: int, *_: Any) -> None:
        stops.append(number)
        server.should_exit = True

    def restart(_number: int, frame: FrameType | None) -> None:
        if not kept and not from_terminal:
            server.keeps_socket = True
            kept.append(listener.dup())  # before uvicorn closes it: who connects meanwhile waits in its queue
        drain = signal.getsignal(signal.SIGTERM)
        if callable(drain):
            drain(signal.SIGTERM, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    from_terminal = os.isatty(0)  # which then has hung up: nobody wants the server any more
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup would have it
        signal.signal(signal.SIGHUP, restart)

    def run() -> bool:
        try:
            server.run(sockets=[listener])
        except SystemExit:  # how uvicorn says that the app did not start; it has logged why
            return False
        if kept and len(stops) == 1:  # another one came while it drained: it is to stop after all
            _start_anew(kept[0])
        return server.started

    return run


def _start_anew(listener: socket.socket) -> None:
    """Have this process run its command line once more, with new code, and go on listening."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the new one handles it
    listener.set_inheritable(True)
    os.environ[_RESTARTED] = str(listener.fileno())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - what runs already


def _many(config: uvicorn.Config, listener: socket.socket) -> Callable[[], bool]:
    supervisor = _Supervisor(config, sockets=[listener])

    def run() -> bool:
        supervisor.run()
        return all(process.exitcode != STARTUP_FAILURE for process in supervisor.processes)

    return run


@dataclass(frozen=True)
class _InWorker:
    """Loads the app in a process that the main process has started."""

    load: Callable[[], DurableSessions]
    metrics: Metrics | None

    def __call__(self) -> DurableSessions:
        threading.Thread(target=_stop_when_orphaned, daemon=True).start()
        app = self.load()
        if self.metrics is not None:
            self.metrics.serve()
        return app


def _stop_when_orphaned() -> None:
    if (main_process := multiprocessing.parent_process()) is not None:
        main_process.join()  # it holds the other end of a pipe, which the kernel closes for it
        os.kill(os.getpid(), signal.SIGTERM)


class _Server(uvicorn.Server):
    keeps_socket = False
    """Whether who connects while this drains waits for the one that serves next."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections first, so that nobody is reset who has connected, unless they may wait."""
        for each in () if self.keeps_socket else sockets or ():
            refuse_new_connections(each)
        await asyncio.sleep(STILL_ACCEPTING_SECONDS)
        await super().shutdown(sockets)


class _Supervisor(Multiprocess):
    def restart_all(self) -> None:
        """Give each new worker the time that a start takes, which uvicorn bounds by that of a sign of life."""
        self.config.timeout_worker_healthcheck = _READY_WITHIN
        try:
            super().restart_all()
        finally:
            self.config.timeout_worker_healthcheck = _SIGN_OF_LIFE_WITHIN

    def terminate_all(self) -> None:
        """Close the socket first: connections must not wait in a queue that no worker looks at any more."""
        for each in self.sockets:
            refuse_new_connections(each)
            each.close()
        time.sleep(STILL_ACCEPTING_SECONDS)  # the workers go on accepting
        super().terminate_all()


def log_config(how: Serving) -> dict[str, Any]:
    """Return uvicorn's own logging with ours beside it, in the same form, and without foreign control characters."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["mcp_sessions"] = {"handlers": ["default"], "level": how.log_level.upper(), "propagate": False}
    config["loggers"]["watchfiles"] = {"level": "WARNING"}  # at INFO it counts every file that changes
    if how.in_json:
        # Also what an app's own loggers say: an SDK's server would set up the root logger, unless somebody has.
        config["root"] = {"handlers": ["default"], "level": how.log_level.upper()}
        config["formatters"] = {key: {"()": JsonLines} for key in config["formatters"]}
    else:
        config["formatters"]["default"]["()"] = PlainFormatter
        config["formatters"]["access"]["()"] = PlainAccessFormatter
    return config
