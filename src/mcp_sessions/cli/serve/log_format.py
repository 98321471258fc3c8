"""The form of the lines that ``serve`` logs: uvicorn's own, without control characters of a foreign hand.

An app's error text, and so a traceback, may hold whatever a client sent; it must not steer the operator's terminal.
The colours are uvicorn's and are put around the text afterwards.
"""

import logging
from copy import copy
from typing import Any

from uvicorn.logging import AccessFormatter, DefaultFormatter

from mcp_sessions.logs import printable


def lines_printable(text: str) -> str:
    """Return text of several lines without control characters but tabs and those that end the lines."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


class PlainFormatter(DefaultFormatter):
    """Formats messages and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        record = copy(record)
        record.msg, record.args, record.exc_text = lines_printable(record.getMessage()), None, None
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Format a traceback."""
        return lines_printable(super().formatException(ei))


class PlainAccessFormatter(AccessFormatter):
    """Formats requests."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        record = copy(record)
        if isinstance(record.args, tuple):
            record.args = tuple(printable(each) if isinstance(each, str) else each for each in record.args)
        return super().format(record)
