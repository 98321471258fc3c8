"""From ``module:name`` to an app with durable sessions.

What stands there may be an ASGI app, a function that makes one, a server of the ``mcp`` SDK or of FastMCP, or a
``DurableSessions`` already.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp_sessions.asgi import DurableSessions, HttpSettings
from mcp_sessions.asgi.sdk_servers import NoAppError, app_of, is_server, takes
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.settings import load


@dataclass(frozen=True)
class AppToServe:
    """Where an app is found, and at which address it is served; calling it loads the app, in any process."""

    target: str
    host: str

    def __call__(self) -> DurableSessions:
        """Load the app, make its sessions durable unless they are, and have it answer probes.

        Raises:
            ConfigurationError: there is no such app, or its sessions cannot be made durable.
        """
        found = _found(self.target)
        if callable(found) and not is_server(found) and _makes_an_app(found):
            found = found()
        app = found if isinstance(found, DurableSessions) else self._made_durable(found)
        app.answer_probes()
        return app

    def _made_durable(self, found: Any) -> DurableSessions:
        try:
            app = app_of(found, path=load(HttpSettings, {}).path, host=self.host)
        except NoAppError as error:
            if inspect.iscoroutine(found):
                found.close()
            raise ConfigurationError(
                f"{self.target}, or what it returns, cannot be served: {error}; a function without arguments that "
                "makes an app is served, too"
            ) from None
        return DurableSessions(app)


def _makes_an_app(function: Callable[..., Any]) -> bool:
    return takes(function, 0) and not any(
        each.kind is each.VAR_POSITIONAL for each in inspect.signature(function).parameters.values()
    )


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
