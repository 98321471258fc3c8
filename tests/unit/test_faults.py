"""Faults that no server can be made to cause at will: what they are taken for."""

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import exc

from mcp_sessions.db.faults import FAULTS, is_lost_connection, translated
from mcp_sessions.errors import DatabaseUnavailableError


def wrapped(fault: Exception) -> Exception:
    """The fault as SQLAlchemy passes it on: its own error around the dialect's around the driver's."""
    of_dialect = Exception(str(fault))
    of_dialect.__cause__ = fault
    return exc.InternalError("SELECT 1", {}, of_dialect)


@pytest.mark.parametrize("kind", [asyncpg.InternalClientError, asyncpg.InterfaceError])
@pytest.mark.parametrize("through", ["the driver", "SQLAlchemy"])
def test_connection_in_no_state_to_go_on_is_lost(kind: type[Exception], through: str) -> None:
    """Where the driver gives up on a connection, as after the server's farewell, it is lost, and the fault passes."""
    fault = kind("cannot switch to state 12; another operation (2) is in progress")
    if through == "SQLAlchemy":
        fault = wrapped(fault)
    assert isinstance(fault, FAULTS)
    assert is_lost_connection(fault)
    error = translated(fault, "postgresql://host/database")
    assert isinstance(error, DatabaseUnavailableError)
    assert str(error).endswith("cannot switch to state 12; another operation (2) is in progress")


@pytest.mark.parametrize(
    "fault",
    [
        asyncpg.DuplicatePreparedStatementError('prepared statement "__asyncpg_stmt_1__" already exists'),
        asyncpg.InvalidSQLStatementNameError('prepared statement "__asyncpg_stmt_1__" does not exist'),
        asyncpg.ProtocolViolationError('bind message supplies 2 parameters, but prepared statement "x" requires 1'),
        asyncpg.ProtocolViolationError("unsupported startup parameter: statement_timeout"),
    ],
    ids=str,
)
def test_what_only_a_pgbouncer_says_names_its_setting(fault: Exception) -> None:
    """It does not pass, and the error tells what to set."""
    error = translated(wrapped(fault), "postgresql://host/database")
    assert not isinstance(error, DatabaseUnavailableError)
    assert "MCP_SESSIONS_PGBOUNCER=true" in str(error)


def test_a_full_disk_under_sqlite_passes(tmp_path: Path) -> None:
    """As on Postgres: once there is room again, the same call succeeds; the error says that there is none."""
    with closing(sqlite3.connect(tmp_path / "small.db")) as file:
        file.execute("CREATE TABLE rows (content)")
        file.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as caught:
            file.execute("INSERT INTO rows VALUES (zeroblob(100000))")
    error = translated(exc.OperationalError("INSERT", {}, caught.value), "sqlite:///small.db")
    assert isinstance(error, DatabaseUnavailableError)
    assert "disk is full" in str(error)
