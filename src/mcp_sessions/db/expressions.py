"""The few SQL expressions that the two engines spell differently, each written once.

``now()`` is the one clock: the database's, at the start of the running statement; ``instant()`` is the same clock at
the moment it is read, which lies later where the statement has waited for a lock. ``given(...)`` is a set of rows
sent along with a statement, so that many calls share one statement of constant text: arrays through ``unnest`` on
Postgres, one JSON text through ``json_each`` on SQLite, where the digests, which JSON cannot hold, are one BLOB that
is cut up by position.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Table, bindparam, column, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import BigInteger, Boolean, Double, Integer, LargeBinary, Text, TypeEngine

from mcp_sessions.db.types import SQLITE_FORMAT, Digest, Duration, DurationBefore, UtcDateTime, sqlite_text
from mcp_sessions.digests import DIGEST_LENGTH
from mcp_sessions.records.sessions import OWNER_FIELDS


class _DatabaseNow(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_DatabaseNow, "postgresql")
def _now_postgresql(element: _DatabaseNow, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "statement_timestamp()"


@compiles(_DatabaseNow, "sqlite")
def _now_sqlite(element: _DatabaseNow, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"strftime('{SQLITE_FORMAT}', 'now')"


class _DatabaseInstant(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_DatabaseInstant, "postgresql")
def _instant_postgresql(element: _DatabaseInstant, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "clock_timestamp()"


@compiles(_DatabaseInstant, "sqlite")
def _instant_sqlite(element: _DatabaseInstant, compiler: SQLCompiler, **kwargs: Any) -> str:
    return _now_sqlite(_DatabaseNow(), compiler, **kwargs)  # nothing waits within a statement there


class _After(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_After, "postgresql")
def _after_postgresql(element: _After, compiler: SQLCompiler, **kwargs: Any) -> str:
    moment, duration = element.clauses
    # Of hours alone: days in an interval are days of the calendar, in the time zone that the server is set to.
    return f"({compiler.process(moment, **kwargs)} + make_interval(secs => {compiler.process(duration, **kwargs)}))"


@compiles(_After, "sqlite")
def _after_sqlite(element: _After, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"strftime('{SQLITE_FORMAT}', {compiler.process(element.clauses, **kwargs)})"


class _Latest(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_Latest)
def _latest(element: _Latest, compiler: SQLCompiler, **kwargs: Any) -> str:
    name = "max" if compiler.dialect.name == "sqlite" else "greatest"
    return f"{name}({compiler.process(element.clauses, **kwargs)})"


class _Earliest(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_Earliest)
def _earliest(element: _Earliest, compiler: SQLCompiler, **kwargs: Any) -> str:
    name = "min" if compiler.dialect.name == "sqlite" else "least"
    return f"{name}({compiler.process(element.clauses, **kwargs)})"


class _SecondsBetween(FunctionElement[float]):
    type = Double()
    inherit_cache = True


@compiles(_SecondsBetween, "postgresql")
def _seconds_between_postgresql(element: _SecondsBetween, compiler: SQLCompiler, **kwargs: Any) -> str:
    start, end = (compiler.process(moment, **kwargs) for moment in element.clauses)
    return f"greatest(0, extract(epoch FROM {end} - {start}))"


@compiles(_SecondsBetween, "sqlite")
def _seconds_between_sqlite(element: _SecondsBetween, compiler: SQLCompiler, **kwargs: Any) -> str:
    start, end = (compiler.process(moment, **kwargs) for moment in element.clauses)
    return f"max(0.0, round((julianday({end}) - julianday({start})) * 86400, 3))"


class _HoursBetween(FunctionElement[int]):
    type = Integer()
    inherit_cache = True


@compiles(_HoursBetween, "postgresql")
def _hours_between_postgresql(element: _HoursBetween, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"CAST(floor({compiler.process(seconds_between(*element.clauses), **kwargs)} / 3600) AS integer)"


@compiles(_HoursBetween, "sqlite")
def _hours_between_sqlite(element: _HoursBetween, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"CAST({compiler.process(seconds_between(*element.clauses), **kwargs)} / 3600 AS INTEGER)"


class _Unindexed(FunctionElement[Any]):
    inherit_cache = True

    def __init__(self, looked_at: ColumnElement[Any]) -> None:
        super().__init__(looked_at)
        self.type = looked_at.type


@compiles(_Unindexed)
def _unindexed(element: _Unindexed, compiler: SQLCompiler, **kwargs: Any) -> str:
    return f"{'+' if compiler.dialect.name == 'sqlite' else ''}{compiler.process(element.clauses, **kwargs)}"


def now() -> ColumnElement[datetime]:
    """Return the database's clock at the start of the running statement, the only clock there is."""
    return _DatabaseNow()


def instant() -> ColumnElement[datetime]:
    """Return the database's clock whenever it is read: another time in each row, and after what was waited for."""
    return _DatabaseInstant()


def after(moment: ColumnElement[datetime], duration: timedelta | ColumnElement[timedelta]) -> ColumnElement[datetime]:
    """Return the moment that lies ``duration`` after ``moment`` (before it, where the duration is negative)."""
    if isinstance(duration, timedelta):
        duration = bindparam(None, duration, type_=Duration())
    return _After(moment, duration)


def before(moment: ColumnElement[datetime], duration: str) -> ColumnElement[datetime]:
    """Return the moment that lies before ``moment`` by the duration that is bound under this name."""
    return _After(moment, bindparam(duration, type_=DurationBefore()))


def latest(*moments: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """Return the last of several moments."""
    return _Latest(*moments)


def earliest(*moments: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """Return the first of several moments."""
    return _Earliest(*moments)


def seconds_between(start: ColumnElement[datetime], end: ColumnElement[datetime]) -> ColumnElement[float]:
    """Return how many seconds lie between two moments; none where the clock was put back in between."""
    return _SecondsBetween(start, end)


def hours_between(start: ColumnElement[datetime], end: ColumnElement[datetime]) -> ColumnElement[int]:
    """Return how many whole hours lie between two moments."""
    return _HoursBetween(start, end)


def unindexed(looked_at: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column that SQLite, which guesses without statistics, is not to look up in an index (a unary plus)."""
    return _Unindexed(looked_at)


def insert_into(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Return the engine's own INSERT, which can leave a taken key as it is."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


class Given:
    """A set of rows that is sent with a statement, and the shape of its columns.

    ``rows(dialect)`` is what a statement selects from; ``parameters(dialect, rows)`` is what it is executed with.
    """

    def __init__(self, name: str, /, **columns: TypeEngine[Any]) -> None:
        self.name = name
        self.columns = columns
        self._digests = {name: position for position, name in enumerate(columns) if columns[name] is Digest}

    def rows(self, dialect: str) -> FromClause:
        """Return the rows as a source to select from, named as this set, with its columns."""
        if dialect == "postgresql":
            arrays = [bindparam(f"{self.name}_{name}", type_=ARRAY(kind)) for name, kind in self.columns.items()]
            typed = [column(name, kind) for name, kind in self.columns.items()]
            return func.unnest(*arrays).table_valued(*typed, name=self.name).render_derived()
        element = func.json_each(bindparam(self.name, type_=Text())).table_valued(
            "key", "value", name=f"{self.name}_json"
        )
        return select(*(self._column(element, name, kind).label(name) for name, kind in self.columns.items())).subquery(
            self.name
        )

    def _column(self, element: FromClause, name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
        if name in self._digests:
            digests = bindparam(f"{self.name}_{name}", type_=LargeBinary())
            return func.substr(digests, element.c.key * DIGEST_LENGTH + 1, DIGEST_LENGTH, type_=kind)
        return func.json_extract(element.c.value, f"$[{list(self.columns).index(name)}]", type_=kind)

    def parameters(self, dialect: str, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """Return the rows as the statement's parameters."""
        if dialect == "postgresql":
            return {
                f"{self.name}_{name}": [row[position] for row in rows] for position, name in enumerate(self.columns)
            }
        parameters: dict[str, Any] = {self.name: self._as_json(rows)}
        for name, position in self._digests.items():
            parameters[f"{self.name}_{name}"] = _in_one([row[position] for row in rows])
        return parameters

    def _as_json(self, rows: Sequence[tuple[Any, ...]]) -> str:
        if len(self._digests) == len(self.columns):  # only their number counts, and this is the hottest parameter
            return f"[{','.join('0' * len(rows))}]"
        return json.dumps([[_to_json(value) for value in row] for row in rows])


def _in_one(digests: Sequence[bytes]) -> bytes:
    """Return the digests as one BLOB; one of another length would move all behind it out of their places."""
    if not {*map(len, digests)} <= {DIGEST_LENGTH}:
        raise ValueError(f"a digest that is not {DIGEST_LENGTH} bytes among those to be sent")
    return b"".join(digests)


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return sqlite_text(value)
    return None if isinstance(value, bytes) else value


_OWNER: dict[str, TypeEngine[Any]] = {name: Text() for name in OWNER_FIELDS}

GIVEN_DIGESTS = Given("given", session_digest=Digest)
"""Digests alone: for what is asked by trusted code, or judged after the rows were read."""

GIVEN_USES = Given("given", session_digest=Digest, **_OWNER, any_owner=Boolean())
"""Uses of sessions: the digest and the owner that it must have (``any_owner``: none is asked for)."""

GIVEN_ASKED_ENDS = Given(
    "given", session_digest=Digest, **_OWNER, any_owner=Boolean(), reason=Text(), actor=Text(), place=Integer()
)
"""Wishes to end sessions: the use, why, by whom, and its place among them."""

GIVEN_SESSIONS = Given("given", session_digest=Digest, **_OWNER)
"""New sessions: digest and owner."""

GIVEN_HANDSHAKES = Given(
    "given_handshake", session_digest=Digest, protocol_version=Text(), initialize=Text(), key_id=Text()
)
"""The handshakes of new sessions."""

_LIFE: dict[str, TypeEngine[Any]] = {"session_digest": Digest, "session_created_at": UtcDateTime(), **_OWNER}

GIVEN_LIVES = Given("given", **_LIFE, place=Integer())
"""Lives of sessions, as their owner knows them, each with its place among the calls that are joined."""

GIVEN_NAMES = Given("given", **_LIFE, place=Integer(), name=Text())
"""Entries of sessions' states."""

_CHANGES: dict[str, TypeEngine[Any]] = {
    "place": Integer(),
    "name": Text(),
    "kind": Text(),
    "expected": BigInteger(),
    "version": BigInteger(),
    "size": Integer(),
}

GIVEN_CHANGES = Given("given", **_LIFE, **_CHANGES)
"""Changes of sessions' states, as they are judged."""

GIVEN_CHANGES_AND_VALUES = Given("given", **_LIFE, **_CHANGES, key_id=Text(), value=Text())
"""The same with what is to be stored."""

GIVEN_ENDS = Given("given", session_digest=Digest, reason=Text(), actor=Text())
"""Ends of sessions: which, why, and by whom."""

GIVEN_REFUSALS = Given(
    "given",
    session_digest=Digest,
    **_OWNER,
    session_created_at=UtcDateTime(),
    **{f"claimed_{name}": Text() for name in OWNER_FIELDS},
)
"""Refused uses: the session, and the owner that the use came with."""

GIVEN_MESSAGES = Given("given", session_digest=Digest, worker_id=Text(), kind=Text(), body=Text(), position=Integer())
"""Messages about sessions: to which worker (none: to all), and the order they were sent in."""

GIVEN_PUBLICATIONS = Given("given", kind=Text(), body=Text(), position=Integer())
"""Messages to all workers that are about no session."""
