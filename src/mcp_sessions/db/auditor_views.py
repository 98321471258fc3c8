"""Reading as an auditor on Postgres: the same statements, on views in place of the tables, which it may not read.

The views have the columns of the tables, and row-level security behind them decides whose rows they show (``roles``).
"""

from typing import Any

from sqlalchemy import Column, MetaData, Table, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.visitors import ExternallyTraversible, replacement_traverse

from mcp_sessions.db.tables import cleanup_runs, session_events, sessions

REVISION_VIEW = "audit_schema_revision"
"""What the version table holds, for those who may not read that."""

EVERY_TENANT_VIEW = "audit_every_tenant"
"""The right to read it is the right to see what is not one tenant's."""

_VIEWS = {
    table.name: table.to_metadata(MetaData(), name=f"audit_{table.name}")
    for table in (sessions, session_events, cleanup_runs)
}
READING_VIEWS = (*(view.name for view in _VIEWS.values()), REVISION_VIEW)
"""What an auditor's commands read."""


def through_views(engine: AsyncEngine) -> AsyncEngine:
    """Return an engine with the same connections that reads the views wherever a statement names their tables."""
    reading = engine.execution_options()
    event.listen(reading.sync_engine, "before_execute", _on_views, retval=True)
    return reading


def _on_views(
    _connection: object, statement: Any, several: Any, parameters: Any, _options: object
) -> tuple[Any, Any, Any]:
    if isinstance(statement, ClauseElement):
        statement = replacement_traverse(statement, {}, _view_for)
    return statement, several, parameters


def _view_for(element: ExternallyTraversible, **_options: Any) -> ExternallyTraversible | None:
    if isinstance(element, Table):
        return _VIEWS.get(element.name)
    if not isinstance(element, Column):
        return None
    of: object = element.table
    return _VIEWS[of.name].c[element.name] if isinstance(of, Table) and of.name in _VIEWS else None
