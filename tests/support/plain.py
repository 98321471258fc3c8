"""A database as its plain driver sees it: rows, and the engine's own description of everything in a schema."""

import re
import sqlite3
from contextlib import closing
from typing import Any

import asyncpg

Row = dict[str, Any]

_POSTGRES_CATALOG = """
SELECT format('table %s %s', c.relname, c.reloptions)
FROM pg_class c WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT format('column %s.%s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
              pg_get_expr(d.adbin, d.adrelid))
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('constraint %s.%s %s', c.relname, k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE k.connamespace = quote_ident($1)::regnamespace
UNION ALL
SELECT format('index %s %s', c.relname, pg_get_indexdef(c.oid))
FROM pg_class c WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind = 'i'
UNION ALL
SELECT format('view %s %s', c.relname, pg_get_viewdef(c.oid))
FROM pg_class c WHERE c.relnamespace = quote_ident($1)::regnamespace AND c.relkind = 'v'
UNION ALL
SELECT format('trigger %s.%s %s', c.relname, t.tgname, pg_get_triggerdef(t.oid))
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = quote_ident($1)::regnamespace AND NOT t.tgisinternal
UNION ALL
SELECT format('function %s %s', p.proname, pg_get_functiondef(p.oid))
FROM pg_proc p WHERE p.pronamespace = quote_ident($1)::regnamespace
"""


async def execute(url: str, script: str) -> None:
    """Execute a script of one or more statements."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(_file(url))) as file:
            file.executescript(script)
        return
    server = await asyncpg.connect(url)
    try:
        await server.execute(script)
    finally:
        await server.close(timeout=5)


async def rows(url: str, query: str, *arguments: Any) -> list[Row]:
    """Return the rows of a query, each as a dictionary."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(_file(url))) as file:
            file.row_factory = sqlite3.Row
            return [dict(row) for row in file.execute(query, arguments)]
    server = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await server.fetch(query, *arguments)]
    finally:
        await server.close(timeout=5)


async def tables(url: str, schema: str = "public") -> dict[str, list[Row]]:
    """Return the rows of every table in a schema, Alembic's version table among them, in one order."""
    if url.startswith("sqlite"):
        found = await rows(url, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    else:
        found = await rows(url, "SELECT tablename AS name FROM pg_tables WHERE schemaname = $1", schema)
    prefix = "" if url.startswith("sqlite") else f'"{schema}".'
    return {
        name: sorted(await rows(url, f'SELECT * FROM {prefix}"{name}"'), key=repr)
        for name in (row["name"] for row in found)
    }


async def catalog(url: str, schema: str = "public") -> list[str]:
    """Return what a schema holds, as the engine itself describes it, in an order that says nothing."""
    if url.startswith("sqlite"):
        found = await rows(
            url, "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'"
        )
        return sorted(f"{row['type']} {row['name']} {_in_any_order(row['sql'])}" for row in found)
    described = [row["format"] for row in await rows(url, _POSTGRES_CATALOG, schema)]
    qualified = re.compile(rf'"?\b{schema}\b"?\.')
    return sorted(" ".join(qualified.sub("", line).split()) for line in described)


def _in_any_order(sql: str) -> str:
    """Give the parts of a CREATE TABLE an order of their own: SQLite appends an added column without a new line."""
    parts = (" ".join(part.split()) for part in re.split(r",|\n", sql.replace('"', "")))
    return " ".join(sorted(part for part in parts if part))


def _file(url: str) -> str:
    return url.removeprefix("sqlite:///")
