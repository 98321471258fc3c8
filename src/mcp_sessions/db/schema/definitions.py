"""What the migrations make besides tables: triggers, their functions, and views; and what a database lacks of them.

Alembic compares tables, columns and indexes alone, and without its triggers a database would serve sessions and
record nothing. What has to be there is read from the SQL of the migrations themselves, and so is how it reads: both
engines keep the text of a trigger, and Postgres that of a function. Postgres keeps no text of a view, which it is
enough to have.
"""

import re
from collections.abc import Iterator

from sqlalchemy import Connection, text

_MADE = re.compile(r"^\s*(CREATE|DROP) (TRIGGER|FUNCTION|VIEW) (\w+)", re.MULTILINE)

_IN_SQLITE = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
_IN_POSTGRES = """
    SELECT 'trigger', tgname, replace(pg_get_triggerdef(t.oid), format(' %I.', n.nspname), ' ')
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = coalesce(:schema, current_schema()) AND NOT t.tgisinternal AND t.tgenabled <> 'D'
    UNION ALL
    SELECT 'function', proname, prosrc
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = coalesce(:schema, current_schema())
    UNION ALL
    SELECT 'view', viewname, '' FROM pg_views WHERE schemaname = coalesce(:schema, current_schema())
"""


def differences(connection: Connection, script: str, schema: str | None) -> Iterator[str]:
    """Yield, in words, what the database lacks of the triggers, functions and views that a script makes."""
    if connection.dialect.name == "sqlite":
        found = connection.execute(text(_IN_SQLITE))
    else:
        found = connection.execute(text(_IN_POSTGRES), {"schema": schema})
    there = {(kind, name): _normalised(definition) for kind, name, definition in found}
    as_made = _normalised(script)
    for kind, name in _made_by(script):
        if (kind, name) not in there:
            yield f"the {kind} {name} is missing{' or disabled' if kind == 'trigger' else ''}"
        elif there[kind, name] not in as_made:
            yield f"the {kind} {name} is another one"


def _made_by(script: str) -> list[tuple[str, str]]:
    made: dict[tuple[str, str], None] = {}
    for verb, kind, name in _MADE.findall(script):
        if verb == "CREATE":
            made[kind.lower(), name] = None
        else:
            made.pop((kind.lower(), name), None)
    return list(made)


def _normalised(definition: str) -> str:
    """Postgres has its own way with parentheses and capitals in a trigger's condition."""
    return " ".join(re.sub("[()]", " ", definition).lower().split())
