"""From a server of the ``mcp`` SDK or of FastMCP to the app that it serves streamable HTTP with.

Servers are known by the public method that makes their app, so that neither SDK has to be installed for the other's
sake.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from mcp_sessions.asgi.types import App
from mcp_sessions.errors import ConfigurationError

_ASGI = ("scope", "receive", "send")


class NoAppError(ConfigurationError):
    """What should be an app, or a server that makes one, is neither."""


class SdkServer(Protocol):
    """A server of the ``mcp`` SDK: ``MCPServer``, or the low-level ``Server``."""

    @property
    def streamable_http_app(self) -> Callable[..., Any]:
        """The method that makes its app."""


class FastServer(Protocol):
    """A server of FastMCP."""

    @property
    def http_app(self) -> Callable[..., Any]:
        """The method that makes its app."""


Server = SdkServer | FastServer


def is_server(found: Any) -> bool:
    """Tell whether something is a server that makes its own app."""
    return any(callable(getattr(found, name, None)) for name in ("http_app", "streamable_http_app"))


def app_of(found: Any, *, path: str | None, host: str | None = None) -> App:
    """Return the app of a server, at that path and for that host if given, or the ASGI app that was found.

    Raises:
        NoAppError: it is neither of these.

    """
    app: App
    if callable(make := getattr(found, "http_app", None)):
        app = make(path=path)
    elif callable(make := getattr(found, "streamable_http_app", None)):
        named = {"streamable_http_path": path, "host": host}
        app = make(**{name: value for name, value in named.items() if value is not None})
    elif callable(found) and takes(found, len(_ASGI)):
        app = found
    else:
        raise NoAppError(
            f"something of the type {type(found).__name__} is neither an ASGI app nor an MCPServer or FastMCP"
        )
    return app


def takes(function: Callable[..., Any], count: int) -> bool:
    """Tell whether a function can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):  # ValueError: written in C, and without a signature
        return False
    return True
