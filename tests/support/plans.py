"""Query plans of the statements that a unit of work really runs, parameters and all."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
from sqlalchemy import Connection, event

from mcp_sessions.db.backend import Backend
from tests.support.rows import Rows


class _RollBackError(Exception):
    """Ends a unit of work without a trace."""


async def plans_of(
    database: Backend, rows: Rows, unit: Callable[[Connection], object], *, for_any_parameters: bool = False
) -> str:
    """Return the plans of all statements of a unit of work, which is run and rolled back.

    ``for_any_parameters``: on Postgres also the plans that a prepared statement may come to use for all of them.
    """
    plans: list[str] = []
    statements: list[str] = []

    def run(connection: Connection) -> None:
        @event.listens_for(connection, "before_cursor_execute")
        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            statements.append(statement)
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if rows.on_sqlite else ''}{statement}", parameters)
            plans.extend(str(row[-1]) for row in cursor.fetchall())

        unit(connection)
        raise _RollBackError

    with suppress(_RollBackError):
        await database.write(run)
    if for_any_parameters and not rows.on_sqlite:
        plans += [line for statement in statements for line in await _generic_plan(rows.url, statement)]
    assert plans
    return "\n".join(plans)


async def _generic_plan(url: str, statement: str) -> list[str]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(f"PREPARE hot AS {statement}")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        count = max((int(number) for number in re.findall(r"\$(\d+)", statement)), default=0)
        arguments = f"({', '.join(['NULL'] * count)})" if count else ""
        return [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE hot{arguments}")]
    finally:
        await connection.close(timeout=10)
