"""Every statement on workers: a row with a lease, by the database's clock, for each process that serves."""

from typing import Any

from sqlalchemy import ColumnElement, Delete, Insert, Select, bindparam, delete, exists, insert, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from mcp_sessions.db.expressions import after, before, now
from mcp_sessions.db.tables import workers
from mcp_sessions.db.types import Duration


def alive() -> ColumnElement[bool]:
    """Return the predicate of a worker whose lease runs: any other is taken to be dead."""
    return workers.c.lease_until > now()


def insert_worker() -> Insert:
    """Begin the lease of a new worker."""
    names = ["worker_id", "host", "process_id", "started_at", "lease_until"]
    given = [bindparam(name, type_=workers.c[name].type) for name in names[:3]]
    row = select(*given, now(), after(now(), bindparam("lease", type_=Duration())))
    return insert(workers).from_select(names, row)


def extend_lease() -> ReturningUpdate[Any]:
    """Move a worker's lease on; no row where it ran out before: then others have taken the worker to be dead."""
    return (
        update(workers)
        .where(workers.c.worker_id == bindparam("this_worker_id"), alive())
        .values(lease_until=after(now(), bindparam("lease", type_=Duration())))
        .returning(workers.c.worker_id)
    )


def find_alive() -> Select[bool]:
    """Read whether a worker is alive."""
    return select(exists().where(workers.c.worker_id == bindparam("this_worker_id"), alive()))


def remove_worker() -> Delete:
    """Remove a worker that stops, with the messages that nobody will read any more."""
    return delete(workers).where(workers.c.worker_id == bindparam("this_worker_id"))


def remove_dead_workers() -> Delete:
    """Remove the workers whose lease ran out more than ``grace`` ago, with their messages."""
    dead = select(workers.c.worker_id).where(workers.c.lease_until < before(now(), "grace"))
    return delete(workers).where(workers.c.worker_id.in_(dead.with_for_update(skip_locked=True)))
