"""From ``module:name`` to an app with durable sessions.

What stands there may be an ASGI app, a function that makes one, a server of the ``mcp`` SDK or of FastMCP, or a
``DurableSessions`` already. Servers are known by the public method that makes their app, so that neither SDK has to
be installed for the other's sake.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp_sessions.asgi import DurableSessions, HttpSettings
from mcp_sessions.asgi.types import App
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.settings import load

_ASGI = ("scope", "receive", "send")


@dataclass(frozen=True)
class AppToServe:
    """Where an app is found, and at which address it is served; calling it loads the app, in any process."""

    target: str
    host: str

    def __call__(self) -> DurableSessions:
        """Load the app, and make its sessions durable unless they are.

        Raises:
            ConfigurationError: there is no such app, or its sessions cannot be made durable.
        """
        found = _found(self.target)
        if callable(found) and not _is_server(found) and _makes_an_app(found):
            found = found()
        app = self._app_of(found)
        return app if isinstance(app, DurableSessions) else DurableSessions(app)

    def _app_of(self, found: Any) -> App:
        app: App
        path = load(HttpSettings, {}).path
        if callable(make := getattr(found, "http_app", None)):  # FastMCP
            app = make(path=path)
        elif callable(make := getattr(found, "streamable_http_app", None)):  # the servers of the SDK
            app = make(host=self.host, **({} if path is None else {"streamable_http_path": path}))
        elif callable(found) and _takes(found, len(_ASGI)):
            app = found
        else:
            if inspect.iscoroutine(found):
                found.close()
            raise ConfigurationError(
                f"{self.target} is, or returns, something of the type {type(found).__name__}: neither an ASGI app, nor "
                "a function without arguments that makes one, nor an MCPServer or FastMCP"
            )
        return app


def _is_server(found: Any) -> bool:
    return any(callable(getattr(found, name, None)) for name in ("http_app", "streamable_http_app"))


def _makes_an_app(function: Callable[..., Any]) -> bool:
    return _takes(function, 0) and not any(
        each.kind is each.VAR_POSITIONAL for each in inspect.signature(function).parameters.values()
    )


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):  # ValueError: written in C, and without a signature
        return False
    return True


def _found(target: str) -> Any:
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        hint = f", like {module_name.removesuffix('.py').replace('/', '.') or 'module'}:app"
        raise ConfigurationError(f"name the module and what to serve in it{hint}, not {target!r}")
    found: Any = _module(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f"there is no {path} in the module {module_name}") from None
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it imports is not: its author needs the traceback
        hint = f"; write {name.removesuffix('.py')} for {name}" if name.endswith(".py") else ""
        raise ConfigurationError(
            f"there is no module {error.name} in the current folder or among the installed packages{hint}"
        ) from None
