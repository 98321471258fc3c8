"""The questions of ``docs/reference/audit.md`` and their SQL, as a reader finds them there."""

import re
import sqlite3
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

_DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "audit.md"
_QUESTION = re.compile(r"^### (?P<question>.+)$\n(?P<text>(?:^(?!#).*\n)*)", re.MULTILINE)
_BLOCK = re.compile(r"^```sql(?: (?P<engine>\w+))?\n(?P<sql>.*?)^```$", re.MULTILINE | re.DOTALL)


def questions() -> dict[str, dict[str, str]]:
    """Return each question's SQL by engine."""
    found: dict[str, dict[str, str]] = {}
    for match in _QUESTION.finditer(_DOCUMENT.read_text()):
        found[match["question"]] = answers = {}
        for block in _BLOCK.finditer(match["text"]):
            for engine in [block["engine"]] if block["engine"] else ["postgres", "sqlite"]:
                assert engine not in answers, f"two blocks of SQL for {engine}: {match['question']}"
                answers[engine] = block["sql"]
    return found


async def ask(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask a question as an auditor does, with nothing but the engine's own means, in UTC."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            return [tuple(map(_plain, row)) for row in file.execute(sql)]
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        await connection.execute("SET TIME ZONE 'UTC'")
        return [tuple(map(_plain, row)) for row in await connection.fetch(sql)]
    finally:
        await connection.close(timeout=10)


def _plain(value: Any) -> Any:
    """Return a value as both engines would: times to the minute, days and digests as text, numbers as numbers."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", value):
        return value[:16]
    return value
