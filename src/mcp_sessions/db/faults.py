"""Faults of the database, told apart and translated in this one place.

A fault never turns into "no such session": it leaves here as a ``DatabaseError``, which says what could not be done,
without statements, parameters or passwords.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asyncpg
from sqlalchemy import exc

from mcp_sessions.errors import DatabaseError, DatabaseHeldError, DatabaseRefusedError, DatabaseUnavailableError

T = TypeVar("T")

_DRIVERS_OWN = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg says of a connection that is closed, or that the server's farewell left in no state to go on."""

FAULTS = (
    exc.SQLAlchemyError,
    asyncpg.PostgresError,
    *_DRIVERS_OWN,
    sqlite3.Error,
    OSError,
    TimeoutError,
)
"""What a unit of work may raise when the database, not the caller, is at fault."""

_PASSING_STATES = ("08", "25006", "40", "53", "55", "57")
"""SQLSTATE prefixes of faults that pass: connection lost, read-only standby, rolled back, resources, locks,
operator intervention (shutdown, timeouts)."""

_REFUSED_STATES = ("22", "23", "54", "P0001")
"""SQLSTATE prefixes of faults that lie in the values: bad data, a constraint, too long for an index, a trigger."""

_ROLLED_BACK_STATES = ("40001", "40P01")
_PASSING_SQLITE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}
_REFUSED_SQLITE = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}


def translated(fault: BaseException, database: str) -> DatabaseError:
    """Return the fault as an error of ours, naming the database (its URL without the password)."""
    reason = _reason(fault)
    if _is_of_pgbouncer(fault):
        return DatabaseError(
            f"the database {database} refused: {reason} (where a PgBouncer is in front of it, set "
            "MCP_SESSIONS_PGBOUNCER=true)"
        )
    if _state(fault) == asyncpg.LockNotAvailableError.sqlstate:
        return DatabaseHeldError(f"the database {database} is not available: {reason}")
    if _passes(fault):
        return DatabaseUnavailableError(f"the database {database} is not available: {reason}")
    if "readonly" in reason or "read-only" in reason:
        return DatabaseError(f"the database {database} cannot be written to: {reason}")
    if "no such table" in reason or _state(fault) == "42P01":
        return DatabaseError(f"the database {database} lacks a table; run 'mcp-sessions db upgrade': {reason}")
    if is_forbidden(fault):
        reason += " (rights are set by 'mcp-sessions db roles --apply', also after an upgrade)"
    refused = DatabaseRefusedError if _lies_in_the_values(fault) else DatabaseError
    return refused(f"the database {database} refused: {reason}")


@contextmanager
def reported(database: str) -> Iterator[None]:
    """Have faults of this database leave as errors of ours.

    Raises:
        DatabaseError: the database failed.
    """
    try:
        yield
    except FAULTS as fault:
        raise translated(fault, database) from fault


async def attempted_twice(attempt: Callable[[], Awaitable[T]], database: str, *, repeatable: bool) -> T:
    """Attempt something, and once again where the first time certainly changed nothing.

    ``repeatable``: doing it twice is as good as once, so it is also attempted again where the connection was lost.

    Raises:
        DatabaseError: the database failed.
    """
    with reported(database):
        try:
            return await attempt()
        except FAULTS as fault:
            if not (is_rolled_back(fault) or (repeatable and is_lost_connection(fault))):
                raise
        return await attempt()


def is_lost_connection(fault: BaseException) -> bool:
    """Tell whether the connection was lost, so that a new one may do better."""
    lost = isinstance(fault, exc.DBAPIError) and fault.connection_invalidated
    return lost or isinstance(_origin(fault), (ConnectionError, asyncpg.PostgresConnectionError, *_DRIVERS_OWN))


def is_forbidden(fault: BaseException | None) -> bool:
    """Tell whether the role lacks a right on Postgres."""
    return fault is not None and _state(fault) == asyncpg.InsufficientPrivilegeError.sqlstate


def is_rolled_back(fault: BaseException) -> bool:
    """Tell whether the transaction certainly changed nothing and would do so again: any unit may be repeated."""
    stale_plan = isinstance(_origin(fault), asyncpg.InvalidCachedStatementError)
    return stale_plan or _was_never_sent(fault) or _state(fault) in _ROLLED_BACK_STATES


def _was_never_sent(fault: BaseException) -> bool:
    """Tell whether asyncpg found the connection closed, or closing, before it sent what was asked."""
    origin = _origin(fault)
    in_no_state = isinstance(origin, asyncpg.InternalClientError) and "cannot switch to state" in str(origin)
    return in_no_state or isinstance(origin, asyncpg.InterfaceError)


def _passes(fault: BaseException) -> bool:
    if isinstance(fault, exc.TimeoutError | OSError | TimeoutError):
        return True
    if is_lost_connection(fault) or _state(fault).startswith(_PASSING_STATES):
        return True
    return _sqlite_code(fault) in _PASSING_SQLITE


def _lies_in_the_values(fault: BaseException) -> bool:
    return _state(fault).startswith(_REFUSED_STATES) or _sqlite_code(fault) in _REFUSED_SQLITE


def _is_of_pgbouncer(fault: BaseException) -> bool:
    """Tell whether a PgBouncer in transaction mode got what only a server should: the setting for it was forgotten."""
    if isinstance(_origin(fault), (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)):
        return True
    tells = ("unsupported startup parameter", "prepared statement")
    return _state(fault) == asyncpg.ProtocolViolationError.sqlstate and any(each in _reason(fault) for each in tells)


def _origin(fault: BaseException) -> BaseException:
    origin = getattr(fault, "orig", None) or fault
    cause = origin.__cause__
    return cause if isinstance(cause, (asyncpg.PostgresError, *_DRIVERS_OWN, sqlite3.Error)) else origin


def _state(fault: BaseException) -> str:
    return getattr(_origin(fault), "sqlstate", None) or ""


def _sqlite_code(fault: BaseException) -> int | None:
    code: int | None = getattr(_origin(fault), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # above that it tells more than is asked for here


def _reason(fault: BaseException) -> str:
    text = str(_origin(fault)) or type(fault).__name__
    return text.partition("\n")[0]
