"""The log of `serve --log-format json`: a document a line, whatever is logged."""

import io
import json
import logging
import logging.config
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcp_sessions.cli.serve.server import Serving, log_config
from mcp_sessions.logs import log

LOGGERS = ("", "mcp_sessions", "uvicorn", "uvicorn.error", "uvicorn.access", "watchfiles")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logging as `serve --log-format json` sets it up; calling it returns what was logged."""
    stream = io.StringIO()
    before = [(each, each.handlers, each.level, each.propagate) for each in map(logging.getLogger, LOGGERS)]
    config = log_config(Serving(1, "info", access_log=True, in_json=True))
    for handler in config["handlers"].values():
        handler["stream"] = stream
    logging.config.dictConfig(config)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_has_the_fields_of_a_record(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A line has its time, level, logger and message, and the facts that the layer tells."""
    log(logging.INFO, "terminated", "session ended (session %(session)s)", session="0f3641b3794f", tenant_id="a")
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "mcp_sessions",
        "message": "session ended (session 0f3641b3794f)",
        "operation": "terminated",
        "session": "0f3641b3794f",
        "tenant_id": "a",
    }


def test_has_the_parts_of_a_request(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A request is told by client, method, path and status, as well as by its line of text."""
    arguments = ("127.0.0.1:5", "POST", "/mcp", "1.1", 200)
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *arguments)
    (line,) = lines()
    assert line["message"] == '127.0.0.1:5 - "POST /mcp HTTP/1.1" 200'
    assert {name: line[name] for name in ("client", "method", "path", "status")} == {
        "client": "127.0.0.1:5",
        "method": "POST",
        "path": "/mcp",
        "status": 200,
    }


def test_is_one_plain_line_whatever_is_logged(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A traceback, control characters, and what the app's own loggers say, are one document each."""
    try:
        int("evil\x1b[2J\n{}")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("it failed\n", extra={"color_message": "\x1b[31m"})
    logging.getLogger("an.app").warning("line\n%s", object)
    failed, other = lines()
    assert "evil" in failed["traceback"]
    assert failed.keys() == {"level", "logger", "message", "time", "traceback"}
    assert other["logger"] == "an.app"
