"""The tables, in one MetaData with a naming convention. Alembic alone creates them; see ``migrations/``.

The row of a session is narrow, and no index holds a column that a touch changes: on Postgres a touch is a heap-only
update, and the table's spare room (``fillfactor``) takes the new version. ``cleanup_at`` is what the cleanup's index
holds instead of ``expires_at``: a moment not after the expiry, moved only now and then (see ``statements.touch``).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

from mcp_sessions.db.types import Digest, UtcDateTime
from mcp_sessions.records.events import ACTORS, EVENT_KINDS
from mcp_sessions.records.sessions import OWNER_FIELDS, OWNER_TEXT_MAX_LENGTH
from mcp_sessions.validation import STATE_NAME_MAX_LENGTH

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

VERSION_TABLE = "mcp_sessions_alembic_version"
"""Alembic's version table under a name of our own: the database may have another Alembic history."""

SESSION_TIMES = ("created_at", "last_activity_at", "expires_at", "cleanup_at")

sessions = Table(
    "sessions",
    metadata,
    Column("session_digest", Digest, primary_key=True),
    Column("tenant_id", Text),
    Column("client_id", Text),
    Column("issuer", Text),
    Column("subject", Text),
    *(Column(name, UtcDateTime, nullable=False) for name in SESSION_TIMES),
    Column("settings_version", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("length(session_digest) = 32", name="session_digest_is_sha256"),
    *(
        CheckConstraint(f"length({name}) BETWEEN 1 AND {OWNER_TEXT_MAX_LENGTH}", name=f"{name}_length")
        for name in OWNER_FIELDS
    ),
    Index(None, "tenant_id", "client_id", "created_at", "session_digest"),
    Index(None, "client_id", "created_at", "session_digest"),
    Index(None, "subject", "created_at", "session_digest"),
    Index(None, "created_at", "session_digest"),
    Index(None, "cleanup_at"),
    sqlite_with_rowid=False,
    postgresql_with={"fillfactor": 70},
)

session_handshakes = Table(
    "session_handshakes",
    metadata,
    Column("session_digest", Digest, ForeignKey("sessions.session_digest", ondelete="CASCADE"), primary_key=True),
    Column("protocol_version", Text, nullable=False),
    Column("initialize", Text, nullable=False),
    Column("key_id", Text),
    sqlite_with_rowid=False,
)
"""What a worker replays to restore a session that it did not open: big and rarely read, so not in ``sessions``.
``key_id`` names the key that sealed ``initialize``."""

client_settings = Table(
    "client_settings",
    metadata,
    Column("session_digest", Digest, ForeignKey("sessions.session_digest", ondelete="CASCADE"), primary_key=True),
    Column("key_id", Text),
    Column("settings", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""What a client set for its session and each worker keeps to. ``sessions.settings_version`` is a random number that
every change draws anew, and 0 before the first: whoever finds a session knows from it whether to read this."""

session_state = Table(
    "session_state",
    metadata,
    Column("session_digest", Digest, ForeignKey("sessions.session_digest", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("key_id", Text),
    Column("value", Text, nullable=False),
    CheckConstraint(f"length(name) BETWEEN 1 AND {STATE_NAME_MAX_LENGTH}", name="name_length"),
)
"""The state of sessions, one row an entry. ``version`` is a random number that every write draws anew, so that none
is ever that of an earlier value; ``size`` is what ``value`` has in bytes as plain JSON; ``key_id`` names the key that
sealed it. The value stands last: what is asked of the other columns reads no page of it."""

key_values = Table(
    "key_values",
    metadata,
    Column("key_digest", Digest, primary_key=True),
    Column("collection", Text, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("key_id", Text),
    Column("value", Text, nullable=False),
    CheckConstraint("length(key_digest) = 32", name="key_digest_is_sha256"),
    Index(None, "expires_at"),
)
"""What servers keep beside sessions, by the SHA-256 of collection and key: a key may be a secret, and of any length.
``collection`` is for people to read; ``key_id`` names the key of encryption that sealed the value."""


def _one_of(name: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{name} IN ({', '.join(map(repr, values))})", name=name)


session_events = Table(
    "session_events",
    metadata,
    Column("event_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("session_digest", Digest, nullable=False),
    *(Column(name, Text) for name in OWNER_FIELDS),
    Column("session_created_at", UtcDateTime, nullable=False),
    Column("is_end", Boolean),
    Column("lifetime_seconds", Double),
    *(Column(f"claimed_{name}", Text) for name in OWNER_FIELDS),
    UniqueConstraint("session_digest", "session_created_at", "is_end"),
    CheckConstraint("length(session_digest) = 32", name="session_digest_is_sha256"),
    _one_of("kind", EVENT_KINDS),
    _one_of("actor", ACTORS),
    CheckConstraint(
        "(kind IN ('refused', 'state_read')) = (is_end IS NULL) AND (is_end IS NULL OR is_end = (kind <> 'created'))",
        name="is_end_fits_the_kind",
    ),
    Index(None, "occurred_at"),
    Index(None, "tenant_id", "occurred_at"),
    sqlite_autoincrement=True,
)
"""The audit trail, append-only: one row for each thing that happened to a session, in the transaction that did it.

``session_digest`` and ``session_created_at`` name one life of a session: an id may be used again once its session has
ended. ``is_end`` is false for the beginning of that life, true for its end, null for what is neither; so the unique key
holds each life to one beginning and one end. ``claimed_*`` are the owner that a refused use came with.

The number of an event is given once, also where the retention has removed the newest: who follows the trail goes by it.

Every index costs each creation and each end a page: there is one for a session, one for a time, one for a tenant.
"""

cleanup_runs = Table(
    "cleanup_runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("held_until_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("running_slot", SmallInteger),
    Column("sessions_removed", Integer, nullable=False),
    Column("events_removed", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    CheckConstraint("(running_slot IS NULL) = (ended_at IS NOT NULL)", name="slot_is_held_until_the_end"),
    CheckConstraint("running_slot = 1", name="one_slot"),
    Index("uq_cleanup_runs_running_slot", "running_slot", unique=True),
    Index(None, "started_at"),
)
"""One row a cleanup run. A run holds the only slot there is while it runs, which makes it the one cleaner of the
deployment; ``held_until_at`` moves on with every batch, and a run that stopped moving it loses the slot."""

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("process_id", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("lease_until", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)
"""One row a process that serves HTTP. It moves its lease on while it lives; whoever waits for a worker whose lease is
over, or that has no row, waits for nobody."""

messages = Table(
    "messages",
    metadata,
    Column("message_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("worker_id", Text, ForeignKey("workers.worker_id", ondelete="CASCADE")),
    Column("session_digest", Digest, ForeignKey("sessions.session_digest", ondelete="CASCADE")),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("sent_at", UtcDateTime, nullable=False),
    Index(None, "worker_id", "message_id"),
    Index(None, "session_digest"),
    Index(None, "sent_at"),
    sqlite_autoincrement=True,
)
"""What one worker leaves for another (``worker_id``), or for all of them: about a session, with which it goes, or about
none. An addressed message is removed as it is read; one for all when it is old."""
