"""From the options of ``serve`` to a server that runs: settings, app, schema, socket, workers."""

import asyncio
import logging.config
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from mcp_sessions.asgi import DurableSessions, HttpSettings
from mcp_sessions.asgi.echoes import unechoed
from mcp_sessions.cli.runner import database_of
from mcp_sessions.cli.serve.load_app import AppToServe
from mcp_sessions.cli.serve.server import Serving, listen, log_config, prepared
from mcp_sessions.db.schema import revisions as schema
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.logs import log, printable
from mcp_sessions.settings import Settings, load


def start(target: str, given: Mapping[str, str | None], *, host: str, port: int, how: Serving) -> bool:
    """Serve until a signal, and return True; or return False where the app did not start.

    ``given`` are settings, by name, as the environment would have them.

    Raises:
        ConfigurationError: there is no such app, a setting makes no sense, or the port is taken.
        SchemaRevisionError: the database has to be migrated first.
        DatabaseError: the database could not be asked.
    """
    _to_environment(given)
    _open_closed_streams()
    logging.config.dictConfig(log_config(how))
    sys.path.insert(0, str(Path.cwd()))
    load_app = AppToServe(target, host)
    app = load_app()
    _check_obeyed(app, given)
    with unechoed():
        asyncio.run(schema.require_revision(app.settings))
    with listen(host, port) as listener:
        serve = prepared(load_app, app, listener, how)
        _tell(target, app, listener, how)
        return serve()


def _open_closed_streams() -> None:
    """Have closed standard streams, as a supervisor's may be, go nowhere: or a file or socket gets their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)  # for the workers
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def _to_environment(given: Mapping[str, str | None]) -> None:
    """Hand settings on to every worker, and to an app that is durable already."""
    for name, value in given.items():
        if value is not None:
            prefix = str((Settings if name in Settings.model_fields else HttpSettings).model_config["env_prefix"])
            os.environ[f"{prefix}{name.upper()}"] = value


def _check_obeyed(app: DurableSessions, given: Mapping[str, str | None]) -> None:
    for settings, wanted in ((app.settings, load(Settings, {})), (app.http_settings, load(HttpSettings, {}))):
        for name in given.keys() & type(settings).model_fields.keys():
            if given[name] is not None and getattr(settings, name) != getattr(wanted, name):
                raise ConfigurationError(
                    f"the code of the app sets {name} itself: leave out --{name.replace('_', '-')}, or change the code"
                )


def _tell(target: str, app: DurableSessions, listener: socket.socket, how: Serving) -> None:
    lines = _facts(target, app, listener, how)
    if how.in_json:
        log(logging.INFO, "serving", f"serving {printable(target)}".replace("%", "%%"), **lines)
        return
    typer.echo(f"serving {target}")
    for label, line in lines.items():
        typer.echo(f"  {label:10}{line}")


def _facts(target: str, app: DurableSessions, listener: socket.socket, how: Serving) -> dict[str, str]:
    root = f"http://{_reachable(listener)}"
    url = f"{root}{app.path}"
    timeouts, drain = app.settings.timeouts, app.http_settings.drain_timeout
    absolute = "no absolute timeout" if timeouts.absolute is None else f"absolute timeout {timeouts.absolute}"
    name = target.partition(":")[0].rpartition(".")[2]
    return {
        "endpoint": url,
        "health": f"{root}/healthz, {root}/readyz" if app.answer_probes() else "left to the app, see --health",
        "database": f"{database_of(app.settings)}, at schema revision {schema.head_revision()}",
        "sessions": f"idle timeout {timeouts.idle}, {absolute}",
        **_metrics_of(how),
        "workers": f"{how.workers}",
        "connect": f"claude mcp add --transport http {name} {url}",
        "stop": f"Ctrl-C; requests in flight get {drain.total_seconds():g} s to finish, no session ends",
    }


def _metrics_of(how: Serving) -> dict[str, str]:
    if how.metrics is None:
        return {}
    host = f"[{how.metrics.host}]" if ":" in how.metrics.host else how.metrics.host
    first, last = how.metrics.ports[0], how.metrics.ports[-1]
    return {"metrics": f"http://{host}:{first}/metrics" + (f" to port {last}" if last > first else "")}


def _reachable(listener: socket.socket) -> str:
    """Return host and port as somebody on this machine reaches them."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
