"""Every statement behind the operator's numbers. Each is bounded by the sessions there are or the events of a day."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, bindparam, func, literal, select

from mcp_sessions.db.expressions import after, hours_between, now
from mcp_sessions.db.statements.sessions import live
from mcp_sessions.db.tables import cleanup_runs, session_events, sessions
from mcp_sessions.records.events import CREATED_BY_TOOL

HOURS = 24


def count_sessions() -> Select[datetime, int, int]:
    """Read the database's clock and count the rows: live ones, and all."""
    return select(now(), func.count().filter(live()), func.count()).select_from(sessions)


def events_by_hour() -> Select[Any]:
    """Count the events of the last hours by kind and whole hours since, and add up how long the ended lived."""
    ago = hours_between(session_events.c.occurred_at, now()).label("hours_ago")
    return (
        select(ago, session_events.c.kind, func.count(), func.sum(session_events.c.lifetime_seconds))
        .where(session_events.c.occurred_at > after(now(), timedelta(hours=-HOURS)))
        .group_by(ago, session_events.c.kind)
    )


def biggest_tenants() -> Select[Any]:
    """Read the ``limit`` tenants with the most live sessions, and how many each has."""
    number = func.count().label("number")
    return (
        select(sessions.c.tenant_id, number)
        .where(live())
        .group_by(sessions.c.tenant_id)
        .order_by(number.desc(), sessions.c.tenant_id)
        .limit(bindparam("limit"))
    )


def last_run() -> Select[Any]:
    """Read the cleanup run that began last."""
    names = ("worker", "started_at", "ended_at", "sessions_removed", "events_removed", "error")
    return select(*(cleanup_runs.c[name] for name in names)).order_by(cleanup_runs.c.started_at.desc()).limit(1)


def count_by_handle() -> Select[int]:
    """Count the live sessions that a tool created for a handle, as far as the trail goes back."""
    began = and_(
        session_events.c.session_digest == sessions.c.session_digest,
        session_events.c.session_created_at == sessions.c.created_at,
        session_events.c.is_end.is_(False),
    )
    by_handle = session_events.c.reason == literal(CREATED_BY_TOOL)
    return select(func.count()).select_from(sessions).join(session_events, began).where(live(), by_handle)
