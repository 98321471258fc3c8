"""Every statement on messages between workers.

Whether a message can reach anybody is judged by the statement that stores it: a worker that is alive, a session that
is live. A message to one worker is removed as it is read, so that it is read once; one to all of them is read by each
of them, and removed when it is old.
"""

from functools import cache
from typing import Any

from sqlalchemy import Delete, Select, and_, bindparam, delete, exists, func, literal, null, or_, select, true
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert
from sqlalchemy.types import Text

from mcp_sessions.db.expressions import GIVEN_MESSAGES, GIVEN_PUBLICATIONS, before, insert_into, now
from mcp_sessions.db.statements.sessions import live
from mcp_sessions.db.statements.workers import alive
from mcp_sessions.db.tables import messages, sessions, workers

MESSAGE_COLUMNS = (messages.c.message_id, messages.c.session_digest, messages.c.kind, messages.c.body)
"""What a ``Message`` is made of."""

_NAMES = ["worker_id", "session_digest", "kind", "body", "sent_at"]


@cache
def send_messages(dialect: str) -> ReturningInsert[Any]:
    """Store messages about live sessions to workers that are alive, or to all; read whose were stored."""
    given = GIVEN_MESSAGES.rows(dialect)
    meant = or_(
        workers.c.worker_id == given.c.worker_id,
        and_(given.c.worker_id.is_(None), workers.c.worker_id != bindparam("this_worker_id")),
    )
    reachable = exists().where(meant, alive())
    about_a_live_session = exists().where(sessions.c.session_digest == given.c.session_digest, live())
    rows = (
        select(given.c.worker_id, given.c.session_digest, given.c.kind, given.c.body, now())
        .where(reachable, about_a_live_session)
        .order_by(given.c.position)
    )
    return (
        insert_into(messages, dialect)
        .from_select(_NAMES, rows)
        .returning(messages.c.message_id, messages.c.worker_id, messages.c.session_digest)
    )


@cache
def publish_messages(dialect: str) -> ReturningInsert[Any]:
    """Store messages to all workers, about no session, where another one is alive; read their numbers."""
    given = GIVEN_PUBLICATIONS.rows(dialect)
    others = exists().where(workers.c.worker_id != bindparam("this_worker_id"), alive())
    rows = select(null(), null(), given.c.kind, given.c.body, now()).where(others).order_by(given.c.position)
    return insert_into(messages, dialect).from_select(_NAMES, rows).returning(messages.c.message_id)


def take_messages() -> ReturningDelete[Any]:
    """Remove and read at most ``limit`` of a worker's messages, the oldest ones."""
    oldest = (
        select(messages.c.message_id)
        .where(messages.c.worker_id == bindparam("this_worker_id"))
        .order_by(messages.c.message_id)
        .limit(bindparam("limit"))
    )
    return delete(messages).where(messages.c.message_id.in_(oldest)).returning(*MESSAGE_COLUMNS)


def look_for_messages() -> Select[Any]:
    """Read at most ``limit`` messages, the oldest ones: to this worker, and to all workers behind ``message_id``."""
    to_this_one = messages.c.worker_id == bindparam("this_worker_id")
    to_all = and_(messages.c.worker_id.is_(None), messages.c.message_id > bindparam("message_id"))
    return (
        select(*MESSAGE_COLUMNS, messages.c.worker_id.is_(None).label("to_all"))
        .where(or_(to_this_one, to_all))
        .order_by(messages.c.message_id)
        .limit(bindparam("limit"))
    )


def newest_message() -> Select[int]:
    """Read the number of the newest message to all workers; 0 where there is none."""
    return select(func.coalesce(func.max(messages.c.message_id), 0)).where(messages.c.worker_id.is_(None))


def remove_messages() -> Delete:
    """Remove at most ``limit`` messages that were sent more than ``retention`` ago, the oldest first."""
    old = (
        select(messages.c.message_id)
        .where(messages.c.sent_at < before(now(), "retention"))
        .order_by(messages.c.sent_at)
        .limit(bindparam("limit"))
    )
    return delete(messages).where(messages.c.message_id.in_(old))


def notify_others() -> Select[Any]:
    """On Postgres: wake others up, unless this worker is the only one that is alive.

    In a transaction of its own: a commit that notifies takes a lock that the whole server has once. It is held for
    no longer than it takes to say so: what is a hint need not wait until it is on the disk.
    """
    others = select(literal(1)).where(workers.c.worker_id != bindparam("this_worker_id"), alive()).limit(1).subquery()
    wake_up = func.pg_notify(bindparam("channel", type_=Text()), bindparam("recipients", type_=Text()))
    not_durable = func.set_config("synchronous_commit", "off", true())  # within this transaction
    return select(not_durable, wake_up).select_from(others)
