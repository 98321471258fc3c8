"""What others would log of the layer's own doings, kept out of the log.

The SDK logs each of its sessions under an id that means something inside this process only, and each request that the
layer asks it about by the way; Alembic logs each look at the schema. All of it would tell once more, or wrongly, what
this package says itself. So what they say below WARNING while they work for the layer is dropped, and nothing else:
not their warnings, not what they say of an app that is not wrapped, and not where this package logs at DEBUG.
"""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

from mcp_sessions.logs import logger

_ECHOING = (
    "alembic.runtime.migration",
    "alembic.runtime.plugins",
    "mcp.server.streamable_http",
    "mcp.server.streamable_http_manager",
)
_at_work: ContextVar[bool] = ContextVar("mcp_sessions_at_work", default=False)


class _Unechoed(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not _at_work.get() or logger.isEnabledFor(logging.DEBUG)


_UNECHOED = _Unechoed()  # a logger takes the same filter once, however often it is added


def listen_for_echoes() -> None:
    """Have those who echo asked, from now on, whether they do."""
    for name in _ECHOING:
        logging.getLogger(name).addFilter(_UNECHOED)


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Drop the echoes of a block, and of the tasks and threads that it starts."""
    token = _at_work.set(True)
    try:
        yield
    finally:
        _at_work.reset(token)
