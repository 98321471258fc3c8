"""Every statement on the state of sessions.

Whoever reads or changes state names a life of a session as its owner knows it: the digest, the moment of its creation
and the owner; and the session has to be live. A call whose session is not found so has no row in the answer.

On Postgres a change is one statement: the sessions are locked, each change is judged (see ``Outcome``), and what may
be done is. What it judges by, it read before it got the locks. So whoever changes the state of a session makes a new
version of that session's row, too; where a statement finds another version than the one it read by, or the row locked
by somebody else, it answers ``again``. SQLite has one writer, and there a transaction judges first and then writes.
"""

from functools import cache
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Delete,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import BigInteger, Integer, Text

from mcp_sessions.db.expressions import (
    GIVEN_CHANGES,
    GIVEN_CHANGES_AND_VALUES,
    GIVEN_LIVES,
    GIVEN_NAMES,
    insert_into,
    now,
)
from mcp_sessions.db.statements.events import LIFE
from mcp_sessions.db.statements.sessions import live, locked, same_owner
from mcp_sessions.db.tables import session_events, session_state, sessions
from mcp_sessions.records.sessions import OWNER_FIELDS

_Inserted = TypeVar("_Inserted", postgresql.Insert, sqlite.Insert)

_KEY = ("session_digest", "name")
_STORED = (*_KEY, "version", "size", "key_id", "value")


def _life(given: FromClause, found: FromClause = sessions) -> ColumnElement[bool]:
    """Return whether a session is the given one: this life of it, and this owner's."""
    return and_(
        found.c.session_digest == given.c.session_digest,
        found.c.created_at == given.c.session_created_at,
        same_owner(given, found),
    )


@cache
def find_entries(dialect: str) -> Select[Any]:
    """Read entries by their names; of a live session that has none of that name, the version is null."""
    given = GIVEN_NAMES.rows(dialect)
    entry = and_(session_state.c.session_digest == sessions.c.session_digest, session_state.c.name == given.c.name)
    return (
        select(given.c.place, session_state.c.version, session_state.c.key_id, session_state.c.value)
        .join_from(given, sessions, and_(_life(given), live()))
        .outerjoin(session_state, entry)
    )


@cache
def list_entries(dialect: str) -> Select[Any]:
    """Read all entries of sessions; of a live session that has none, one row whose name is null."""
    return _whole_states(dialect, session_state.c.key_id, session_state.c.value)


@cache
def list_sizes(dialect: str) -> Select[Any]:
    """Read the names and sizes of all entries of sessions, as ``list_entries`` does."""
    return _whole_states(dialect, session_state.c.size)


def _whole_states(dialect: str, *columns: ColumnElement[Any]) -> Select[Any]:
    given = GIVEN_LIVES.rows(dialect)
    return (
        select(given.c.place, session_state.c.name, *columns)
        .join_from(given, sessions, and_(_life(given), live()))
        .outerjoin(session_state, session_state.c.session_digest == sessions.c.session_digest)
    )


@cache
def judge_changes() -> Select[Any]:
    """On SQLite: read the outcome that each change is to have, by its place."""
    given = GIVEN_CHANGES.rows("sqlite")
    meant = sessions.c.session_digest.in_(select(given.c.session_digest))
    found = select(sessions.c.session_digest, *_owned(sessions), true().label("fresh")).where(meant, live())
    judged = _judged(given, found.cte("found"))
    return select(judged.c.place, judged.c.outcome)


@cache
def put_entry() -> sqlite.Insert:
    """On SQLite: store an entry."""
    return _putting(sqlite.insert(session_state))


@cache
def delete_entry() -> Delete:
    """On SQLite: remove an entry."""
    key = (session_state.c[name] == bindparam(f"gone_{name}", type_=session_state.c[name].type) for name in _KEY)
    return delete(session_state).where(*key)


@cache
def change_state() -> Select[Any]:
    """On Postgres: judge changes, and do those that may be done; read the outcome of each by its place."""
    given = GIVEN_CHANGES_AND_VALUES.rows("postgresql")
    judged = _judged(given, _held(given))
    done = judged.c.outcome == "done"
    put = select(*(judged.c[name] for name in _STORED)).where(done, judged.c.kind != "delete")
    written = _putting(postgresql.insert(session_state).from_select(_STORED, put)).cte("written")
    gone = select(*(judged.c[name] for name in _KEY)).where(done, judged.c.kind == "delete")
    removed = delete(session_state).where(tuple_(*(session_state.c[name] for name in _KEY)).in_(gone)).cte("removed")
    renewed = _renewal(select(judged.c.session_digest).where(done)).cte("renewed")
    return select(judged.c.place, judged.c.outcome).add_cte(written, removed, renewed)


@cache
def record_read(dialect: str) -> ReturningInsert[Any]:
    """Record in the trail that somebody is shown the state of given sessions, those that are live."""
    given = GIVEN_LIVES.rows(dialect)
    why = (bindparam(name, type_=Text()) for name in ("reason", "actor"))
    owner = (sessions.c[name] for name in OWNER_FIELDS)
    event = select(now(), literal("state_read"), *why, sessions.c.session_digest, *owner, sessions.c.created_at)
    return (
        insert_into(session_events, dialect)
        .from_select(
            ["occurred_at", "kind", "reason", "actor", *LIFE],
            event.join_from(given, sessions, and_(_life(given), live())),
        )
        .returning(session_events.c.event_id)
    )


def lock_lives(dialect: str) -> Select[bytes]:
    """Read the given sessions that are live and that nobody else has locked, and keep them until the end."""
    given = GIVEN_LIVES.rows(dialect)
    meant = select(sessions.c.session_digest).join_from(given, sessions, and_(_life(given), live()))
    return locked(meant, if_free=True)


def clear_state() -> Delete:
    """Remove every entry of a session that this transaction keeps locked."""
    return delete(session_state).where(session_state.c.session_digest == bindparam("digest"))


def renew() -> Any:
    """On Postgres: tell other writers, by a new version of the session's row, that its state was changed."""
    return _renewal(select(bindparam("digest", type_=sessions.c.session_digest.type)))


def _held(given: FromClause) -> FromClause:
    """The given sessions, and whether each is ``fresh``: locked, and nobody has changed its row since it was read.

    None is waited for: who has waited would have read too early. So one that is held up holds up no others.
    """
    version: ColumnElement[Any] = literal_column("sessions.xmin")
    meant = sessions.c.session_digest.in_(select(given.c.session_digest))
    read = (
        select(sessions.c.session_digest, *_owned(sessions), version.label("seen"))
        .where(meant, live())
        .cte("read")
        .prefix_with("MATERIALIZED")
    )
    same = read.c.session_digest == sessions.c.session_digest
    locked_now = (
        select(sessions.c.session_digest, (version == read.c.seen).label("fresh"))
        .join_from(read, sessions, same)
        .where(live())
        .order_by(sessions.c.session_digest)
        .with_for_update(of=sessions, skip_locked=True)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )
    fresh = func.coalesce(locked_now.c.fresh, false()).label("fresh")
    return (
        select(read.c.session_digest, *_owned(read), fresh)
        .outerjoin_from(read, locked_now, locked_now.c.session_digest == read.c.session_digest)
        .cte("held")
    )


def _owned(found: FromClause) -> list[ColumnElement[Any]]:
    return [found.c[name] for name in ("created_at", "tenant_id", "client_id", "issuer", "subject")]


def _judged(given: FromClause, held: FromClause) -> FromClause:
    """Each change with its ``outcome``; what makes state smaller is never too much.

    Several changes of one session are measured together, as if none made it smaller: where that would be too much
    they have to come ``apart``, for one that is refused must not make room for another.
    """
    entry = and_(session_state.c.session_digest == held.c.session_digest, session_state.c.name == given.c.name)
    totals = (
        select(
            session_state.c.session_digest,
            func.count().label("entries"),
            func.sum(session_state.c.size, type_=BigInteger()).label("size"),
        )
        .where(session_state.c.session_digest.in_(select(held.c.session_digest)))
        .group_by(session_state.c.session_digest)
        .cte("totals")
    )
    puts, is_new = given.c.kind != "delete", session_state.c.version.is_(None)
    growth = given.c.size - func.coalesce(session_state.c.size, 0)
    measured = (
        select(
            *given.c,
            held.c.fresh,
            session_state.c.version.label("current"),
            *(
                _measures(
                    given,
                    entries=(case((and_(puts, is_new), 1), else_=0), totals.c.entries),
                    size=(case((and_(puts, growth > 0), growth), else_=0), totals.c.size),
                )
            ),
        )
        .outerjoin_from(given, held, _life(given, held))
        .outerjoin(session_state, entry)
        .outerjoin(totals, totals.c.session_digest == held.c.session_digest)
        .subquery("measured")
    )
    return select(*(measured.c[column.name] for column in given.c), _outcome(measured).label("outcome")).cte("judged")


def _measures(given: FromClause, **measures: tuple[ColumnElement[int], ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    of_session = given.c.session_digest
    columns: list[ColumnElement[Any]] = [func.count().over(partition_by=of_session).label("company")]
    for name, (more, there) in measures.items():
        together = func.sum(more, type_=BigInteger()).over(partition_by=of_session)
        columns += [more.label(f"more_{name}"), (func.coalesce(there, 0) + together).label(f"all_{name}")]
    return columns


def _outcome(measured: FromClause) -> ColumnElement[str]:
    def too_much(name: str) -> ColumnElement[bool]:
        limit = bindparam(f"max_{name}", type_=Integer())
        return and_(measured.c[f"more_{name}"] > 0, measured.c[f"all_{name}"] > limit)

    swapped = and_(measured.c.kind == "swap", measured.c.current.is_distinct_from(measured.c.expected))
    too_many, too_big = too_much("entries"), too_much("size")
    return case(
        (measured.c.fresh.is_(None), "gone"),
        (measured.c.fresh == false(), "again"),
        (swapped, "lost"),
        (and_(measured.c.company > 1, or_(too_many, too_big)), "apart"),
        (too_many, "entries"),
        (too_big, "size"),
        else_=literal("done"),
    )


def _putting(inserted: _Inserted) -> _Inserted:
    changed = {name: inserted.excluded[name] for name in _STORED if name not in _KEY}
    return inserted.on_conflict_do_update(index_elements=list(_KEY), set_=changed)


def _renewal(digests: Select[Any]) -> Any:
    return (
        update(sessions)
        .values(last_activity_at=sessions.c.last_activity_at)
        .where(sessions.c.session_digest.in_(digests))
    )
