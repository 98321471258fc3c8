"""Every query of ``docs/reference/audit.md``, on both engines, against data whose answers are known."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mcp_sessions import Owner
from mcp_sessions.digests import digest_of, short_digest
from tests.support.cookbook import ask, questions
from tests.support.rows import Rows
from tests.support.stories import Life, Refused, Run, tell

ANN = Owner("acme", "cli-1", "https://idp.example", "ann")
BOB = Owner("acme", "cli-2", "https://idp.example", "bob")
ZOE = Owner("globex", "cli-1", None, "zoe")
EVE = Owner("other", "cli-9", None, "eve")


def march(day: int, hour: int = 10, minute: int = 0) -> datetime:
    """Return a moment of March 2026."""
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


def shown(moment: datetime) -> str:
    """Return a moment to the minute, as answers have it."""
    return moment.strftime("%Y-%m-%d %H:%M")


def short(session_id: str) -> str:
    """Return how the views show a session."""
    return short_digest(digest_of(session_id))


EXAMPLE = Life("example-session-id", ANN, march(1), march(1, 11), "terminated", "logged out", "owner")
EARLY = Life("early", ANN, datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 2, 21, tzinfo=UTC), "expired", "expired")
SPAN = Life("span", BOB, datetime(2026, 2, 28, 10, tzinfo=UTC), march(2), "expired", "expired", "cleanup")
BY_OPERATOR = Life("by-operator", BOB, march(2, 12), march(2, 12, 30), "terminated", "laptop lost", "operator")
BY_HAND = Life("by-hand", ZOE, march(3), march(3, 10, 10), "deleted", "deleted outside the application", "database")
BULK = [
    Life(f"bulk-{number}", ZOE, march(4, 9, number), march(4, 12), "revoked", "contract over", "operator")
    for number in range(3)
]
APRIL = Life("april", ANN, datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 4, 1, 1, tzinfo=UTC))
PAST = [EXAMPLE, EARLY, SPAN, BY_OPERATOR, BY_HAND, *BULK, APRIL]
REFUSED = [
    Refused(EXAMPLE, EVE, march(1, 10, 30)),
    Refused(SPAN, EVE, march(1, 10, 31)),
    Refused(SPAN, Owner("globex"), march(1, 10, 32)),
]

Answer = list[tuple[Any, ...]]


def present(now: datetime) -> list[Life]:
    """Return the sessions that have not ended; the last one has expired, and waits for the cleanup."""
    return [
        Life("live-old", ANN, now - timedelta(hours=9), last_activity=now - timedelta(minutes=30)),
        Life("live", ANN, now - timedelta(hours=2), last_activity=now - timedelta(minutes=5)),
        Life("live-bob", BOB, now - timedelta(hours=1), last_activity=now - timedelta(minutes=10)),
        Life("unswept", Owner("initech"), now - timedelta(hours=3), expires=now - timedelta(hours=2)),
    ]


def runs(now: datetime) -> list[Run]:
    """Return the runs of the cleanup."""
    return [
        Run("host-a:1", march(1, 3), march(1, 3, 1), error="the database went away"),
        Run("host-a:1", now - timedelta(hours=3), now - timedelta(hours=3), sessions=5, events=70),
        Run("host-b:2", now - timedelta(hours=2), now - timedelta(hours=2), error="stopped before its end"),
    ]


def answers(now: datetime) -> dict[str, Answer]:
    """Return the answer to each question, where the present is ``now``."""
    live_old, live, live_bob, _unswept = present(now)
    return {
        "Who is connected now?": [
            (short("live-bob"), "acme", "cli-2", "bob", shown(live_bob.opened), shown(now - timedelta(minutes=10))),
            (short("live"), "acme", "cli-1", "ann", shown(live.opened), shown(now - timedelta(minutes=5))),
            (short("live-old"), "acme", "cli-1", "ann", shown(live_old.opened), shown(now - timedelta(minutes=30))),
        ],
        "How many sessions has each tenant and client now?": [("acme", "cli-1", 2), ("acme", "cli-2", 1)],
        "Which sessions are idle the longest?": [
            (short("live-old"), "acme", "ann", 30),
            (short("live-bob"), "acme", "bob", 10),
            (short("live"), "acme", "ann", 5),
        ],
        "Which live sessions are older than eight hours?": [
            (short("live-old"), "acme", "cli-1", "ann", shown(live_old.opened)),
        ],
        "What happened to the session whose id a user hands in?": [
            ("2026-03-01 10:00", "created", "created", "owner", "acme", "cli-1", "ann", None),
            ("2026-03-01 10:30", "refused", "used by another owner", "foreign", "acme", "cli-1", "ann", None),
            ("2026-03-01 11:00", "terminated", "logged out", "owner", "acme", "cli-1", "ann", 3600),
        ],
        "The same, hashed by the database": [
            ("2026-03-01 10:00", "created", "created", "owner", "acme", "cli-1", "ann"),
            ("2026-03-01 10:30", "refused", "used by another owner", "foreign", "acme", "cli-1", "ann"),
            ("2026-03-01 11:00", "terminated", "logged out", "owner", "acme", "cli-1", "ann"),
        ],
        "Whose is the session in this log line?": [
            (
                *("acme", "cli-1", "https://idp.example", "ann", "2026-03-01 10:00", "2026-03-01 11:00"),
                *("terminated", "logged out", "owner"),
            ),
        ],
        "Which sessions did a tenant have in a period?": [
            (short("span"), "cli-2", "bob", "2026-02-28 10:00", "2026-03-02 10:00", "expired"),
            (short("example-session-id"), "cli-1", "ann", "2026-03-01 10:00", "2026-03-01 11:00", "terminated"),
            (short("by-operator"), "cli-2", "bob", "2026-03-02 12:00", "2026-03-02 12:30", "terminated"),
        ],
        "What did one user do?": [
            ("2026-02-20 00:00", "2026-02-21 00:00", "cli-1", "expired", 1440),
            ("2026-03-01 10:00", "2026-03-01 11:00", "cli-1", "terminated", 60),
            ("2026-04-01 00:00", "2026-04-01 01:00", "cli-1", "terminated", 60),
            (shown(live_old.opened), None, "cli-1", None, 540),
            (shown(live.opened), None, "cli-1", None, 120),
        ],
        "How long do sessions live, by client?": [
            ("cli-2", 2, (48 * 3600 + 1800) / 2, 48 * 3600),
            ("cli-1", 7, round((3600 + 86400 + 600 + 3 * 3 * 3600 - 180 + 3600) / 7), 86400),
            (None, 1, 3600, 3600),
        ],
        "Which tenants have not opened a session for thirty days?": [("globex", "2026-03-04 09:02")],
        "Is everybody of a tenant logged out?": [("contract over", "operator", 3, "2026-03-04 12:00", 0)],
        "How did sessions end, expired against terminated?": [
            ("revoked", 3, 3 * 3600 - 60),
            ("terminated", 2, (3600 + 1800) / 2),
            ("deleted", 1, 600),
            ("expired", 1, 48 * 3600),
        ],
        "Which sessions did an operator end, and why?": [
            ("2026-03-02 12:30", "terminated", "laptop lost", "acme", "cli-2", "bob"),
            *[("2026-03-04 12:00", "revoked", "contract over", "globex", "cli-1", "zoe")] * 3,
        ],
        "Was anything deleted past the application?": [
            ("2026-03-03 10:10", "deleted outside the application", "globex", "cli-1", "zoe"),
        ],
        "Which uses by another principal were refused?": [
            ("2026-03-01 10:30", "acme", "ann", "other", "cli-9", None, "eve"),
            ("2026-03-01 10:31", "acme", "bob", "other", "cli-9", None, "eve"),
            ("2026-03-01 10:32", "acme", "bob", "globex", None, None, None),
        ],
        "Who was refused at more than one session?": [("other", "cli-9", "eve", 2)],
        "How does a tenant grow, day by day?": [
            ("2026-02-20", 1, 0, 1),
            ("2026-02-21", 0, 1, 0),
            ("2026-02-28", 1, 0, 1),
            ("2026-03-01", 1, 1, 1),
            ("2026-03-02", 1, 2, 0),
            ("2026-04-01", 1, 1, 0),
        ],
        "Which tenants opened the most sessions in a month?": [("globex", 4, 0), ("acme", 2, 1)],
        "At which hours of the day are sessions opened?": [(9, 3), (10, 2), (12, 1)],
        "Did the cleanup run in the last 24 hours?": [(2, 5, 70, 1)],
        "Which runs failed, where, and why?": [
            ("2026-03-01 03:00", "2026-03-01 03:01", "host-a:1", "the database went away"),
            (shown(now - timedelta(hours=2)), shown(now - timedelta(hours=2)), "host-b:2", "stopped before its end"),
        ],
        "How many expired sessions wait for the cleanup?": [(1, shown(now - timedelta(hours=2)))],
        "Does the trail agree with the table?": [],
        "How far back does the trail go?": [("2026-02-20 00:00", shown(live_bob.opened), 25)],
    }


@pytest.fixture
async def now(rows: Rows) -> datetime:
    """The present of the data that the answers are about."""
    now = datetime.now(UTC)
    await tell(rows, [*PAST, *present(now)], REFUSED, runs(now))
    return now


def test_every_question_is_asked_here() -> None:
    """The document has at least fifteen questions with SQL for both engines, and each is one of these."""
    asked = questions()
    assert list(asked) == list(answers(march(1)))
    assert sum(sql.keys() == {"postgres", "sqlite"} for sql in asked.values()) >= 15
    assert all("postgres" in sql for sql in asked.values())


@pytest.mark.parametrize(
    ("database_url", "question"),
    [(engine, question) for question, sql in questions().items() for engine in sql],
    indirect=["database_url"],
)
async def test_its_sql_gives_the_answer(database_url: str, rows: Rows, now: datetime, question: str) -> None:
    """What stands below a question in the document answers it."""
    answer = await ask(database_url, sql_of(question, rows))
    if question == "How does a tenant grow, day by day?":
        answer = answer[:6]  # the last days are this test's own
    assert answer == answers(now)[question]


@pytest.mark.usefixtures("now")
async def test_a_disagreement_is_found(database_url: str, rows: Rows) -> None:
    """A session that the trail does not know to be over is found, and one that it does not know at all."""
    await rows.execute(f"DELETE FROM session_events WHERE is_end AND {rows.among(['by-operator'])}")
    await rows.execute(f"DELETE FROM session_events WHERE {rows.among(['live'])}")
    assert await ask(database_url, sql_of("Does the trail agree with the table?", rows)) == [
        ("not in the table", digest_of("by-operator").hex()),
        ("not in the trail", digest_of("live").hex()),
    ]


def sql_of(question: str, rows: Rows) -> str:
    """Return what the document says for the engine at hand."""
    return questions()[question]["sqlite" if rows.on_sqlite else "postgres"]


def test_the_example_is_the_documents() -> None:
    """The digest in the document is that of the session id in the document."""
    asked = questions()
    digest = digest_of("example-session-id").hex()
    assert digest in asked["What happened to the session whose id a user hands in?"]["postgres"]
    assert "'example-session-id'" in asked["The same, hashed by the database"]["postgres"]
