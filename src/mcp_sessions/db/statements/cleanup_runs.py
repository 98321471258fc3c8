"""Every statement on cleanup runs. The slot that a run holds is the lease that makes it the only cleaner."""

from typing import Any

from sqlalchemy import Delete, Update, and_, bindparam, delete, exists, literal, select, update
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from mcp_sessions.db.expressions import after, before, insert_into, now
from mcp_sessions.db.tables import cleanup_runs
from mcp_sessions.db.types import Duration


def abandon_lost_runs() -> Update:
    """Close runs that stopped moving their lease: their worker died or lost the database.

    A lease that ends later than a whole ``lease`` from now was taken before the clock was put back.
    """
    held = and_(
        cleanup_runs.c.held_until_at > now(),
        cleanup_runs.c.held_until_at <= after(now(), bindparam("lease", type_=Duration())),
    )
    return (
        update(cleanup_runs)
        .where(cleanup_runs.c.running_slot == 1, ~held)
        .values(ended_at=now(), running_slot=None, error="abandoned: its worker was not heard from any more")
    )


def begin_run(dialect: str) -> ReturningInsert[Any]:
    """Begin a run unless one is running, or a good one began less than ``quiet_time`` ago.

    One that began later than now does not count: the clock was put back since.
    """
    recent = exists().where(
        cleanup_runs.c.started_at > before(now(), "quiet_time"),
        cleanup_runs.c.started_at <= now(),
        cleanup_runs.c.error.is_(None),
    )
    row = select(
        bindparam("run_id", type_=cleanup_runs.c.run_id.type),
        bindparam("worker", type_=cleanup_runs.c.worker.type),
        now(),
        after(now(), bindparam("lease", type_=Duration())),
        literal(1),
        literal(0),
    ).where(~recent)
    names = ["run_id", "worker", "started_at", "held_until_at", "running_slot", "sessions_removed"]
    return (
        insert_into(cleanup_runs, dialect)
        .from_select(names, row)
        .on_conflict_do_nothing(index_elements=[cleanup_runs.c.running_slot])
        .returning(cleanup_runs.c.run_id)
    )


def advance_run() -> ReturningUpdate[Any]:
    """Add what a batch removed and move the lease on; no row where the run has lost its slot."""
    return (
        update(cleanup_runs)
        .where(cleanup_runs.c.run_id == bindparam("this_run_id"), cleanup_runs.c.ended_at.is_(None))
        .values(
            sessions_removed=cleanup_runs.c.sessions_removed + bindparam("removed"),
            events_removed=cleanup_runs.c.events_removed + bindparam("removed_events"),
            held_until_at=after(now(), bindparam("lease", type_=Duration())),
        )
        .returning(cleanup_runs.c.run_id)
    )


def end_run() -> Update:
    """End a run, with its error where it failed, and free the slot."""
    return (
        update(cleanup_runs)
        .where(cleanup_runs.c.run_id == bindparam("this_run_id"), cleanup_runs.c.ended_at.is_(None))
        .values(ended_at=now(), running_slot=None, error=bindparam("failure", type_=cleanup_runs.c.error.type))
    )


def remove_runs() -> Delete:
    """Remove at most ``limit`` ended runs that began more than ``retention`` ago, the oldest first."""
    old = (
        select(cleanup_runs.c.run_id)
        .where(
            cleanup_runs.c.started_at < before(now(), "retention"),
            cleanup_runs.c.ended_at.is_not(None),
        )
        .order_by(cleanup_runs.c.started_at)
        .limit(bindparam("limit"))
    )
    return delete(cleanup_runs).where(cleanup_runs.c.run_id.in_(old))
