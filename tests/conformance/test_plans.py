"""How the engines carry out the hot statements: each is pinned to its index, and none reads a whole table."""

import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from mcp_sessions import Owner, SessionManager
from mcp_sessions.db.expressions import (
    GIVEN_ASKED_ENDS,
    GIVEN_CHANGES,
    GIVEN_CHANGES_AND_VALUES,
    GIVEN_DIGESTS,
    GIVEN_HANDSHAKES,
    GIVEN_LIVES,
    GIVEN_NAMES,
    GIVEN_SESSIONS,
    GIVEN_USES,
)
from mcp_sessions.db.repositories import (
    BEGINNING_OF_TIME,
    BulkEnd,
    CleanupRunRepository,
    End,
    EventRepository,
    SessionRepository,
    Use,
)
from mcp_sessions.db.repositories.client_settings import ClientSettingsRepository, StoredSettings
from mcp_sessions.db.repositories.key_values import KeyValueRepository
from mcp_sessions.db.repositories.sessions import rows_of
from mcp_sessions.db.statements import handshakes
from mcp_sessions.db.statements import sessions as statements
from mcp_sessions.db.statements import state as state_statements
from mcp_sessions.db.statements.ends import end_sessions
from mcp_sessions.records.sessions import OWNER_FIELDS, TRUSTED, NewSession, StoredHandshake, Timeouts, parts_of
from tests.support.managers import ON_POSTGRES, ON_SQLITE, OpenManager
from tests.support.plans import plans_of
from tests.support.roles import Roles
from tests.support.rows import Rows

TIMEOUTS = Timeouts(timedelta(minutes=30), None, timedelta(minutes=1))
SESSIONS = SessionRepository(TIMEOUTS)
RUNS = CleanupRunRepository(timedelta(seconds=30))
EVENTS = EventRepository()
CLIENT_SETTINGS = ClientSettingsRepository()
KEY_VALUES = KeyValueRepository()

NEWEST = datetime.now(UTC)
AMID = NEWEST - timedelta(minutes=25)

KEY = "pk_sessions"
BY_TENANT = "ix_sessions_tenant_id_client_id_created_at_session_digest"
BY_CLIENT = "ix_sessions_client_id_created_at_session_digest"
BY_SUBJECT = "ix_sessions_subject_created_at_session_digest"
BY_CREATION = "ix_sessions_created_at_session_digest"
BY_CLEANUP = "ix_sessions_cleanup_at"

IN_SQLITE = {
    KEY: "sessions USING PRIMARY KEY",
    "pk_session_handshakes": "session_handshakes USING PRIMARY KEY",
    "pk_client_settings": "client_settings USING PRIMARY KEY",
    "pk_session_state": "sqlite_autoindex_session_state_1",
    "pk_key_values": "sqlite_autoindex_key_values_1",
    "pk_cleanup_runs": "sqlite_autoindex_cleanup_runs_1",
}
"""SQLite has no name for the index of a primary key."""

TABLES = "(sessions|cleanup_runs|session_handshakes|client_settings|session_state|key_values|session_events)"
WHOLE_TABLE = re.compile(rf"Seq Scan on {TABLES}|^SCAN {TABLES}( |$)(?!USING)", re.MULTILINE)

Unit = Callable[[Connection, list[bytes]], object]

SMALL, CLIENT, SUBJECT = {"tenant_id": "small"}, {"client_id": "cli-7"}, {"subject": "user-7"}
BOTH = {"tenant_id": "tenant-3", "client_id": "cli-3"}


def find(connection: Connection, digests: list[bytes]) -> None:
    """Read as the statement of every request does."""
    dialect = connection.dialect.name
    given = GIVEN_DIGESTS.parameters(dialect, [(digest,) for digest in digests])
    connection.execute(statements.find_sessions(dialect), given | {"touch_interval": TIMEOUTS.touch_interval})


def find_handshakes(connection: Connection, digests: list[bytes]) -> None:
    """Read as the statement of every restore does."""
    dialect = connection.dialect.name
    given = GIVEN_DIGESTS.parameters(dialect, [(digest,) for digest in digests])
    connection.execute(handshakes.find_handshakes(dialect), given)


def life_rows(digests: list[bytes], *more: object) -> list[tuple[object, ...]]:
    """Return rows that name lives of sessions."""
    nobody = (None,) * len(OWNER_FIELDS)
    return [(digest, NEWEST, *nobody, place, *more) for place, digest in enumerate(digests)]


def find_entries(connection: Connection, digests: list[bytes]) -> None:
    """Read entries of states as their hot statement does."""
    dialect = connection.dialect.name
    given = GIVEN_NAMES.parameters(dialect, life_rows(digests, "cart"))
    connection.execute(state_statements.find_entries(dialect), given)


def list_states(connection: Connection, digests: list[bytes]) -> None:
    """Read whole states, and their sizes."""
    dialect = connection.dialect.name
    given = GIVEN_LIVES.parameters(dialect, life_rows(digests))
    connection.execute(state_statements.list_entries(dialect), given)
    connection.execute(state_statements.list_sizes(dialect), given)


def change_state(connection: Connection, digests: list[bytes]) -> None:
    """Change states as the one statement does, or the unit of work."""
    limits = {"max_entries": 100, "max_size": 10_000}
    if connection.dialect.name == "sqlite":
        given = GIVEN_CHANGES.parameters("sqlite", life_rows(digests, "cart", "swap", 1, 2, 3))
        connection.execute(state_statements.judge_changes(), given | limits)
        connection.execute(state_statements.delete_entry(), {"gone_session_digest": digests[0], "gone_name": "cart"})
        return
    given = GIVEN_CHANGES_AND_VALUES.parameters("postgresql", life_rows(digests, "cart", "swap", 1, 2, 3, None, "[]"))
    connection.execute(state_statements.change_state(), given | limits)


def change_client_settings(connection: Connection, digests: list[bytes]) -> None:
    """Change what a client has set."""
    CLIENT_SETTINGS.replace(connection, digests[0], StoredSettings(1, None, "{}"), read_version=0)


def touch(connection: Connection, digests: list[bytes]) -> None:
    """Touch as the statement of every request does."""
    dialect = connection.dialect.name
    given = GIVEN_USES.parameters(dialect, rows_of(Use(digest, TRUSTED) for digest in digests))
    window = statements.expiry_window(TIMEOUTS)
    connection.execute(statements.touch(dialect, bounded=False), given | window)


def end(connection: Connection, digests: list[bytes]) -> None:
    """End sessions, which locks, records and removes them: a unit of work, or one statement."""
    if connection.dialect.name == "sqlite":
        SESSIONS.end(connection, [End(Use(digest, TRUSTED), "terminated", "application") for digest in digests])
        return
    nobody = (None,) * len(OWNER_FIELDS)
    wishes = [(digest, *nobody, True, "terminated", "application", place) for place, digest in enumerate(digests)]
    connection.execute(end_sessions(), GIVEN_ASKED_ENDS.parameters("postgresql", wishes))


def create(connection: Connection) -> None:
    """Create a session as the unit of work does, or the one statement."""
    new = NewSession(bytes(32), Owner(), StoredHandshake("2025-11-25", "{}", None))
    if connection.dialect.name == "sqlite":
        SESSIONS.insert(connection, [new])
        return
    given = {
        **GIVEN_SESSIONS.parameters("postgresql", [(new.digest, *parts_of(new.owner))]),
        **GIVEN_HANDSHAKES.parameters("postgresql", [(new.digest, "2025-11-25", "{}", None)]),
    }
    window = statements.expiry_window(TIMEOUTS)
    connection.execute(handshakes.insert_with_handshakes(bounded=False), given | window)


def end_some(connection: Connection, filters: dict[str, str]) -> None:
    """End a batch of an owner's sessions, and one of those that nobody else has locked."""
    bulk = BulkEnd("revoked", "revoked", "operator", filters, live_only=True)
    for if_free in (False, True):
        SESSIONS.end_some(connection, bulk, newest=NEWEST, limit=50, if_free=if_free)


HOT: dict[str, tuple[str, Unit]] = {
    "find": (KEY, find),
    "find one": (KEY, lambda c, digests: find(c, digests[:1])),
    "touch": (KEY, touch),
    "touch one": (KEY, lambda c, digests: touch(c, digests[:1])),
    "end": (KEY, end),
    "handshakes": ("pk_session_handshakes", find_handshakes),
    "client settings": ("pk_client_settings", lambda c, digests: CLIENT_SETTINGS.find(c, digests[0])),
    "change client settings": (KEY, change_client_settings),
    "find state": ("pk_session_state", find_entries),
    "list state": ("pk_session_state", list_states),
    "change state": ("pk_session_state", change_state),
    "clear state": (
        "pk_session_state",
        lambda c, digests: c.execute(state_statements.clear_state(), {"digest": digests[0]}),
    ),
    "find values": ("pk_key_values", KEY_VALUES.find),
    "delete values": ("pk_key_values", KEY_VALUES.delete),
    "remove values": ("ix_key_values_expires_at", lambda c, _: KEY_VALUES.remove_expired(c, limit=50)),
    "prefix": (KEY, lambda c, _: SESSIONS.find_by_prefix(c, "abcdef", limit=2)),
    "sweep": (BY_CLEANUP, lambda c, _: SESSIONS.sweep(c, from_cleanup_at=BEGINNING_OF_TIME, limit=50)),
    "newest creation": (BY_CREATION, lambda c, _: SESSIONS.newest_creation(c)),
    "page": (BY_CREATION, lambda c, _: SESSIONS.page(c, {}, limit=50, after=None)),
    "next page": (BY_CREATION, lambda c, digests: SESSIONS.page(c, {}, limit=50, after=(AMID, digests[0]))),
    "page by tenant": (BY_TENANT, lambda c, _: SESSIONS.page(c, SMALL, limit=50, after=None)),
    "page by both": (BY_TENANT, lambda c, _: SESSIONS.page(c, BOTH, limit=50, after=None)),
    "next page by both": (BY_TENANT, lambda c, digests: SESSIONS.page(c, BOTH, limit=50, after=(AMID, digests[0]))),
    "page by client": (BY_CLIENT, lambda c, _: SESSIONS.page(c, CLIENT, limit=50, after=None)),
    "page by subject": (BY_SUBJECT, lambda c, _: SESSIONS.page(c, SUBJECT, limit=50, after=None)),
    "count by tenant": (BY_TENANT, lambda c, _: SESSIONS.count_live(c, SMALL)),
    "end by tenant": (BY_TENANT, lambda c, _: end_some(c, SMALL)),
    "end by client": (BY_CLIENT, lambda c, _: end_some(c, CLIENT)),
    "end by subject": (BY_SUBJECT, lambda c, _: end_some(c, SUBJECT)),
    "forget events": (
        "ix_session_events_occurred_at",
        lambda c, _: EVENTS.remove(c, older_than=timedelta(minutes=49), limit=50),
    ),
    "begin a run": (
        "ix_cleanup_runs_started_at",
        lambda c, _: RUNS.begin(c, run_id="new", worker="w", quiet_time=timedelta(minutes=4)),
    ),
    "advance a run": ("pk_cleanup_runs", lambda c, _: RUNS.advance(c, "run-7", removed=1)),
}

NEVER_SORTED = ("page", "next page", "page by both", "next page by both")
FOR_ANY_PARAMETERS = (
    *("find", "find one", "touch", "touch one", "end", "handshakes", "prefix", "page by both"),
    *("find state", "change state"),
)
"""What is run so often that a plan for any parameters must be as good."""


async def fill(rows: Rows, *, sessions: int = 20_000, runs: int = 5_000) -> None:
    """Fill the tables: forty tenants, one of them small, a tenth expired; and the runs of some weeks."""
    if rows.on_sqlite:
        numbers = "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {0}) SELECT n FROM s)"
        digest, ago = "randomblob(32)", "strftime('%Y-%m-%d %H:%M:%f', 'now', {0} || ' seconds')"
    else:
        numbers = "(SELECT generate_series(1, {0}) AS n)"
        digest, ago = "sha256(n::text::bytea)", "now() + {0} * interval '1 second'"
    created, expires = ago.format("-(n % 3000)"), ago.format("(3000 - n % 3300)")
    await rows.execute(f"""
        INSERT INTO sessions (session_digest, tenant_id, client_id, subject,
                              created_at, last_activity_at, expires_at, cleanup_at)
        SELECT {digest}, CASE WHEN n % 1000 = 7 THEN 'small' ELSE 'tenant-' || (n % 40) END, 'cli-' || (n % 400),
               'user-' || (n % 2000), {created}, {created}, {expires}, {expires}
        FROM {numbers.format(sessions)} AS numbers""")
    await rows.execute(f"""
        INSERT INTO cleanup_runs (run_id, worker, started_at, held_until_at, ended_at, sessions_removed)
        SELECT 'run-' || n, 'w', {ago.format("-(n * 300)")}, {ago.format("-(n * 300)")}, {ago.format("-(n * 300)")}, n
        FROM {numbers.format(runs)} AS numbers""")
    await rows.execute("""
        INSERT INTO session_handshakes (session_digest, protocol_version, initialize)
        SELECT session_digest, '2025-11-25', '{}' FROM sessions""")
    await rows.execute("""
        INSERT INTO session_state (session_digest, name, version, size, value)
        SELECT session_digest, name, 1, 2, '[]'
        FROM sessions, (SELECT 'cart' AS name UNION ALL SELECT 'visits') AS names""")
    await rows.execute("""
        INSERT INTO client_settings (session_digest, settings) SELECT session_digest, '{}' FROM sessions""")
    await rows.execute("""
        INSERT INTO key_values (key_digest, collection, expires_at, value)
        SELECT session_digest, 'tokens', expires_at, '{}' FROM sessions""")
    await rows.execute("ANALYZE")


def with_digests(unit: Unit, digests: list[bytes]) -> Callable[[Connection], object]:
    """Bind the digests that a unit of work is about."""
    return lambda connection: unit(connection, digests)


async def test_hot_statements_use_their_indexes(manager: SessionManager, rows: Rows) -> None:
    """Each hot statement finds its rows by the index made for it, and reads no table from end to end."""
    await fill(rows)
    digests = [row["session_digest"] for row in await rows.fetch("SELECT session_digest FROM sessions LIMIT 20")]
    wrong = {}
    for name, (index, unit) in HOT.items():
        on_these = with_digests(unit, digests)
        plan = await plans_of(manager.database, rows, on_these, for_any_parameters=name in FOR_ANY_PARAMETERS)
        used = index in plan or (rows.on_sqlite and IN_SQLITE.get(index, index) in plan)
        sorts = name in NEVER_SORTED and ("Sort" in plan or "TEMP B-TREE" in plan)
        if not used or sorts or WHOLE_TABLE.search(plan):
            wrong[name] = plan
    assert not wrong, "\n".join(f"{name}:\n{plan}\n" for name, plan in wrong.items())


@ON_POSTGRES
@pytest.mark.slow
async def test_policies_change_no_plan(roles: Roles, open_manager: OpenManager, rows: Rows) -> None:
    """Under row-level security the application's statements run as the tables' owner's do, whom no policy concerns."""
    await roles.make_tenant_auditor("acme")
    await fill(rows)
    digests = [row["session_digest"] for row in await rows.fetch("SELECT session_digest FROM sessions LIMIT 20")]
    owner, application = await open_manager(), await open_manager(database_url=await roles.login("cleaner"))
    for name, (_, unit) in HOT.items():
        plans = [
            await plans_of(each.database, Rows(url), with_digests(unit, digests), for_any_parameters=True)
            for each, url in ((owner, rows.url), (application, application.settings.database_url))
        ]
        free, bound = (re.sub(r" +\(cost=.*?\)", "", each) for each in plans)
        assert bound == free, name


async def test_creations_need_no_plan_but_the_key(manager: SessionManager, rows: Rows) -> None:
    """A creation meets a taken digest by the primary key alone."""
    await fill(rows, sessions=3000, runs=1)
    plan = await plans_of(manager.database, rows, create)
    assert "Seq Scan" not in plan
    assert "SCAN sessions" not in plan


@ON_POSTGRES
async def test_touches_are_heap_only(open_manager: OpenManager, rows: Rows) -> None:
    """A touch changes no index entry: on Postgres the row's new version stays on its page, off every index."""
    manager = await open_manager(touch_interval=timedelta(0))
    ids = [await manager.create_session() for _ in range(5)]
    await rows.execute("SELECT pg_stat_reset()")
    for _ in range(20):
        for session_id in ids:
            assert await manager.touch_session(session_id)
    await manager._close()  # a server process reports its counts when it ends, at the latest
    (stats,) = await rows.fetch("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'")
    assert stats["n_tup_upd"] == stats["n_tup_hot_upd"] == 100


@ON_SQLITE
async def test_touches_write_the_page_of_the_row_alone(open_manager: OpenManager, rows: Rows) -> None:
    """A touch changes no index entry: on SQLite it writes one page, that of the session."""
    manager = await open_manager(touch_interval=timedelta(0))
    ids = [await manager.create_session(tenant_id="acme", subject="user") for _ in range(5)]
    await rows.fetch("PRAGMA wal_checkpoint(TRUNCATE)")
    for session_id in ids:
        assert await manager.touch_session(session_id)
    root = await rows.value("SELECT rootpage FROM sqlite_master WHERE name = 'sessions'")
    assert pages_written(rows.url) == [root] * 5


def pages_written(url: str) -> list[int]:
    """Return the numbers of the pages in the WAL of a database: see "WAL File Format" of SQLite's file format."""
    header, frame_header = 32, 24
    wal = Path(f"{make_url(url).database}-wal").read_bytes()
    (page_size,) = struct.unpack_from(">I", wal, 8)
    return [struct.unpack_from(">I", wal, at)[0] for at in range(header, len(wal), frame_header + page_size)]
