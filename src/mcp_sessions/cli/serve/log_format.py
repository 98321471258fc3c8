"""The form of the lines that ``serve`` logs: uvicorn's own, without control characters of a foreign hand.

An app's error text, and so a traceback, may hold whatever a client sent; it must not steer the operator's terminal.
The colours are uvicorn's and are put around the text afterwards.

Or JSON, a document a line, with the fields of each record beside its message: see ``docs/how-to/log.md``.
"""

import logging
from copy import copy
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, LogData
from pythonjsonlogger.json import JsonFormatter
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


class JsonLines(JsonFormatter):
    """Formats messages, and requests by their parts, as JSON."""

    _REQUEST = ("client", "method", "path", "http_version", "status")

    def __init__(self) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
            timestamp="time",
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )

    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add what the record tells beside its message."""
        super().add_fields(log_data, record, message_dict)
        if record.name == "uvicorn.access" and isinstance(record.args, tuple):
            log_data.update(zip(self._REQUEST, record.args, strict=False))
