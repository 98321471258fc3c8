"""How the engines find things in a large trail: by index.

That goes for answers to the main questions of ``docs/reference/audit.md``, and for the statements of the package.
"""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import asyncpg
import pytest
from sqlalchemy import Connection

from mcp_sessions import EventFilter, Owner, Session, SessionManager
from mcp_sessions.db.repositories import EventRepository
from mcp_sessions.db.repositories.events import RecordedEnd, Refusal
from mcp_sessions.db.statements import statistics as statements
from tests.support.cookbook import questions
from tests.support.managers import ON_POSTGRES
from tests.support.plans import plans_of
from tests.support.roles import Roles
from tests.support.rows import Rows

BY_SESSION = "uq_session_events_session_digest_session_created_at_is_end"
BY_TENANT = "ix_session_events_tenant_id_occurred_at"
BY_TIME = "ix_session_events_occurred_at"
BY_RUN = "ix_cleanup_runs_started_at"
IN_SQLITE = {
    BY_SESSION: "sqlite_autoindex_session_events_1",
    "pk_sessions": "sessions USING PRIMARY KEY",
    "pk_session_events": "SEARCH session_events",
}
"""SQLite has names of its own for the indexes of constraints."""

MAIN = {
    "What happened to the session whose id a user hands in?": BY_SESSION,
    "The same, hashed by the database": BY_SESSION,
    "Which sessions did a tenant have in a period?": BY_TENANT,
    "What did one user do?": BY_TENANT,
    "Is everybody of a tenant logged out?": BY_TENANT,
    "How does a tenant grow, day by day?": BY_TENANT,
    "At which hours of the day are sessions opened?": BY_TIME,
    "Did the cleanup run in the last 24 hours?": BY_RUN,
}

WHOLE_TABLE = re.compile(r"Seq Scan on (session_events|cleanup_runs)|^SCAN (session_events|cleanup_runs)", re.MULTILINE)

IN_ORDER = re.compile(r"^SCAN \w+ USING INDEX", re.MULTILINE)
"""How SQLite walks along an index until it has enough."""


async def fill(rows: Rows, events: int, *, analyse: bool = True) -> None:
    """Fill the trail with four years of lives, of two hundred tenants, a hundredth of which are still there."""
    if rows.on_sqlite:
        numbers = "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {0}) SELECT n FROM s)"
        digest, moment = "CAST(printf('%032d', n) AS BLOB)", "strftime('%Y-%m-%d %H:%M:%f', {0}, ({1}) || ' seconds')"
    else:
        numbers = "(SELECT generate_series(1, {0}) AS n)"
        digest, moment = "sha256(n::text::bytea)", "(timestamptz {0} + ({1}) * interval '1 second')"
    lives = events // 2
    seconds = f"CAST(n AS real) * {4 * 365 * 86400} / {lives}"
    opened, ended = moment.format("'2023-01-01'", seconds), moment.format("'2023-01-01'", f"{seconds} + 600")
    who = (
        "CASE n % 200 WHEN 7 THEN 'acme' WHEN 8 THEN 'globex' ELSE 'tenant-' || (n % 200) END, 'cli-' || (n % 400), "
        "'https://idp.example', CASE n % 2000 WHEN 7 THEN 'ann' ELSE 'user-' || (n % 2000) END"
    )
    numbered = f"FROM {numbers.format(lives)} AS numbers"
    names = (
        "occurred_at, kind, reason, actor, session_digest, tenant_id, client_id, issuer, subject, session_created_at, "
        "is_end, lifetime_seconds"
    )
    await rows.execute(f"""
        INSERT INTO session_events ({names})
        SELECT {opened}, 'created', 'created', 'owner', {digest}, {who}, {opened}, false, NULL {numbered}""")
    kind = "CASE n % 3 WHEN 0 THEN 'expired' WHEN 1 THEN 'terminated' ELSE 'revoked' END"
    await rows.execute(f"""
        INSERT INTO session_events ({names})
        SELECT {ended}, {kind}, 'over', 'owner', {digest}, {who}, {opened}, true, 600
        {numbered} WHERE n % 100 <> 0""")
    later = moment.format("'2123-01-01'", "n")
    await rows.execute(f"""
        INSERT INTO sessions (session_digest, tenant_id, client_id, issuer, subject,
                              created_at, last_activity_at, expires_at, cleanup_at)
        SELECT {digest}, {who}, {opened}, {opened}, {later}, {later} {numbered} WHERE n % 100 = 0""")
    await rows.execute(f"""
        INSERT INTO cleanup_runs (run_id, worker, started_at, held_until_at, ended_at, sessions_removed)
        SELECT 'run-' || n, 'w', {opened}, {opened}, {opened}, 0 {numbered} WHERE n <= 5000""")
    if analyse:
        await rows.execute("ANALYZE")


async def plan_of(rows: Rows, sql: str) -> str:
    """Return the engine's plan for a question, asked as an auditor does."""
    if rows.on_sqlite:
        with closing(sqlite3.connect(rows.url.removeprefix("sqlite:///"))) as file:
            return "\n".join(row[-1] for row in file.execute(f"EXPLAIN QUERY PLAN {sql}"))
    connection = await asyncpg.connect(rows.url, timeout=10, command_timeout=30)
    try:
        await connection.execute("SET TIME ZONE 'UTC'")
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}"))
    finally:
        await connection.close(timeout=10)


EVENTS = pytest.mark.parametrize("events", [40_000, pytest.param(1_000_000, marks=pytest.mark.long)])
TRAIL = EventRepository()
ACME, NOT_LONG_AGO = EventFilter(tenant_id="acme"), datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = sha256(b"7").digest()
A_LIFE = Session(DIGEST, Owner("acme"), NOT_LONG_AGO, NOT_LONG_AGO, NOT_LONG_AGO)


def statistics(connection: Connection) -> None:
    """Read the numbers that come from the trail and the runs; those of sessions are of all there are."""
    connection.execute(statements.events_by_hour()).all()
    connection.execute(statements.last_run()).all()


def page(wanted: EventFilter, after: tuple[datetime, int] | None = None) -> Callable[[Connection], object]:
    """Read a page of events."""
    return lambda connection: TRAIL.page(connection, wanted, limit=100, after=after)


def behind(wanted: EventFilter, event_id: int) -> Callable[[Connection], object]:
    """Read what is new to a follower."""
    return lambda connection: TRAIL.behind(connection, event_id, wanted, limit=1000)


STATEMENTS: dict[str, tuple[str, Callable[[Connection], object]]] = {
    "page": (BY_TIME, page(EventFilter())),
    "next page": (BY_TIME, page(EventFilter(), (NOT_LONG_AGO, 7))),
    "page of a day": (BY_TIME, page(EventFilter(since=NOT_LONG_AGO, until=NOT_LONG_AGO + timedelta(days=1)))),
    "page of a tenant": (BY_TENANT, page(ACME)),
    "next page of a tenant": (BY_TENANT, page(ACME, (NOT_LONG_AGO, 7))),
    "page of a user": (BY_TENANT, page(EventFilter(tenant_id="acme", subject="ann"))),
    "page of a session": (BY_SESSION, page(EventFilter(digest_prefix=DIGEST.hex()))),
    "settled": (BY_TIME, lambda c: TRAIL.last_before(c, age=timedelta(seconds=15))),
    "newest": ("pk_session_events", TRAIL.newest),
    "refusals": (BY_SESSION, lambda c: TRAIL.record_refusals(c, [Refusal(A_LIFE, Owner())], quiet_time=timedelta(1))),
    "ends": ("pk_sessions", lambda c: TRAIL.record_ends(c, "terminated", [RecordedEnd(DIGEST, "over", "owner")])),
    "statistics": (BY_RUN, statistics),
    "statistics of events": (BY_TIME, statistics),
}


@pytest.mark.timeout(600)
@EVENTS
async def test_the_statements_use_their_indexes(manager: SessionManager, rows: Rows, events: int) -> None:
    """Each statement on the trail finds its events by the index made for it, and reads none from end to end."""
    await fill(rows, events)
    wrong = {}
    for name, (index, unit) in STATEMENTS.items():
        plan = await plans_of(manager.database, rows, unit)
        if not is_used(index, plan, rows) or WHOLE_TABLE.search(IN_ORDER.sub("", plan)):
            wrong[name] = plan
    assert not wrong, "\n".join(f"{name}\n{plan}\n" for name, plan in wrong.items())


@pytest.mark.timeout(600)
@EVENTS
@pytest.mark.parametrize(
    "wanted",
    [EventFilter(), ACME, EventFilter(digest_prefix=DIGEST.hex()), EventFilter(since=NOT_LONG_AGO, kinds=("refused",))],
)
@pytest.mark.slow
async def test_a_follower_reads_what_is_new_alone(
    manager: SessionManager, rows: Rows, wanted: EventFilter, events: int
) -> None:
    """What came behind an event is found by its number, whatever is asked for; on SQLite without statistics too."""
    await fill(rows, events, analyse=not rows.on_sqlite)  # Postgres sees to that by itself
    newest = await rows.value("SELECT max(event_id) FROM session_events")
    plan = await plans_of(manager.database, rows, behind(wanted, newest - 20))
    found = re.compile(
        r"^SEARCH session_events USING INTEGER PRIMARY KEY|Index Scan using pk_session_events", re.MULTILINE
    )
    assert found.search(plan), plan
    assert not WHOLE_TABLE.search(plan), plan


def is_used(index: str, plan: str, rows: Rows) -> bool:
    """Tell whether a plan has this index."""
    return index in plan or (rows.on_sqlite and IN_SQLITE.get(index, index) in plan)


@pytest.mark.timeout(600)
@EVENTS
async def test_the_main_questions_use_their_indexes(rows: Rows, events: int) -> None:
    """Each main question finds its events by the index made for it, and reads no trail from end to end."""
    await fill(rows, events)
    engine, wrong = "sqlite" if rows.on_sqlite else "postgres", {}
    answers = questions()
    for question, index in MAIN.items():
        if (sql := answers[question].get(engine)) is None:
            continue
        plan = await plan_of(rows, sql)
        if not is_used(index, plan, rows) or WHOLE_TABLE.search(plan):
            wrong[question] = plan
    assert not wrong, "\n".join(f"{question}\n{plan}\n" for question, plan in wrong.items())


@ON_POSTGRES
async def test_an_auditor_of_a_tenant_uses_the_indexes(roles: Roles, rows: Rows) -> None:
    """Where a question names the tenant, row-level security does not keep Postgres from its indexes."""
    acme = Rows(await roles.make_tenant_auditor("acme"))
    await fill(rows, 40_000)
    for question in ("Which sessions did a tenant have in a period?", "What did one user do?"):
        plan = await plan_of(acme, questions()[question]["postgres"])
        assert BY_TENANT in plan, plan
        assert not WHOLE_TABLE.search(plan), plan
