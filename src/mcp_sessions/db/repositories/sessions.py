"""The sessions repository: what happens to rows of ``sessions``, many at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from mcp_sessions.db.expressions import GIVEN_DIGESTS, GIVEN_SESSIONS
from mcp_sessions.db.repositories.events import EventRepository, RecordedEnd
from mcp_sessions.db.statements import handshakes, sweep
from mcp_sessions.db.statements import sessions as statements
from mcp_sessions.db.types import utc
from mcp_sessions.digests import digests_from
from mcp_sessions.records.events import Actor, EventKind
from mcp_sessions.records.sessions import TRUSTED, NewSession, Owner, Session, Timeouts, Trusted, parts_of, stored_owner

BEGINNING_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class Use(NamedTuple):
    """A use of a session: the digest, and the owner that it must have, or trusted code."""

    digest: bytes
    owner: Owner | Trusted

    def admits(self, session: Session) -> bool:
        """Tell whether the session is the one meant, and its owner the given one, as a whole."""
        return self.digest == session.digest and (self.owner is TRUSTED or self.owner == session.owner)


class End(NamedTuple):
    """A wish to end a session, if the use is entitled to it, with what is recorded of it."""

    use: Use
    reason: str
    actor: Actor


class Ended(NamedTuple):
    """What became of several wishes: the session that each ended, and every live session that was meant."""

    sessions: list[Session | None]
    found: dict[bytes, Session]


@dataclass(frozen=True, slots=True)
class BulkEnd:
    """How many sessions end at once: which kind of end, and what is recorded of it.

    ``filters`` name parts of the owner; ``live_only`` spares the expired ones, which the cleanup takes.
    """

    kind: EventKind
    reason: str
    actor: Actor
    filters: Mapping[str, str]
    live_only: bool


class FoundSession(NamedTuple):
    """A row as it was read: the session, whether it is live, and whether its next touch is due."""

    session: Session
    live: bool
    due: bool


class Swept(NamedTuple):
    """One batch of a sweep: how many it removed, and where the next batch starts."""

    removed: int
    next_cleanup_at: datetime


def session_of(row: Sequence[Any]) -> Session:
    """Map a row of ``statements.SESSION_COLUMNS``: the one place that does."""
    return used_session_of((*row[:8], 0))


def used_session_of(row: Sequence[Any]) -> Session:
    """Map a row of ``statements.USED_COLUMNS``."""
    digest, tenant_id, client_id, issuer, subject, created_at, last_activity_at, expires_at, version = row[:9]
    owner = stored_owner(tenant_id, client_id, issuer, subject)
    return Session(bytes(digest), owner, utc(created_at), utc(last_activity_at), utc(expires_at), version)


class SessionRepository:
    """Rows of ``sessions``, under one set of timeouts."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._bounded = timeouts.absolute is not None
        self._window = statements.expiry_window(timeouts)
        self._events = EventRepository()

    def insert(self, connection: Connection, new: Sequence[NewSession]) -> set[bytes]:
        """Store new sessions and return the digests stored; one that is missing was taken, and is untouched."""
        dialect = connection.dialect.name
        statement = statements.insert_sessions(dialect, bounded=self._bounded)
        given = GIVEN_SESSIONS.parameters(dialect, [(each.digest, *parts_of(each.owner)) for each in new])
        stored = {bytes(row[0]) for row in connection.execute(statement, given | self._window)}
        recorded = [
            {
                "session_digest": each.digest,
                "protocol_version": each.handshake.protocol_version,
                "initialize": each.handshake.initialize,
                "key_id": each.handshake.key_id,
            }
            for each in new
            if each.handshake is not None and each.digest in stored
        ]
        if recorded:
            connection.execute(handshakes.insert_handshakes(), recorded)
        return stored

    def end(self, connection: Connection, ends: Sequence[End]) -> Ended:
        """End the live sessions that these uses are entitled to; of several uses, the first ends the session."""
        dialect = connection.dialect.name
        given = GIVEN_DIGESTS.parameters(dialect, [(digest,) for digest in {end.use.digest for end in ends}])
        found = _by_digest(connection.execute(statements.lock_live(dialect), given))
        left = dict(found)
        ended = [
            left.pop(use.digest) if use.digest in left and use.admits(left[use.digest]) else None
            for use, _reason, _actor in ends
        ]
        recorded = [
            RecordedEnd(session.digest, end.reason, end.actor)
            for end, session in zip(ends, ended, strict=True)
            if session is not None
        ]
        self._remove(connection, "terminated", recorded)
        return Ended(ended, found)

    def is_free(self, connection: Connection, digest: bytes) -> bool:
        """Tell whether there is a row of this digest, expired or not, that no other transaction has locked."""
        return connection.execute(statements.lock_if_free(), {"digest": digest}).first() is not None

    def newest_creation(self, connection: Connection) -> datetime | None:
        """Return the creation time of the newest session; None where there is no session at all."""
        newest: datetime | None = connection.execute(statements.newest_creation()).scalar_one()
        return newest

    def end_some(
        self, connection: Connection, bulk: BulkEnd, *, newest: datetime, limit: int, if_free: bool
    ) -> tuple[list[Session], bool]:
        """End at most ``limit`` sessions that are not younger than ``newest``; tell whether any is left.

        ``if_free`` leaves those whose rows another transaction has locked.
        """
        among = {**bulk.filters, "newest": newest}
        some = statements.lock_some(bulk.filters, live_only=bulk.live_only, if_free=if_free)
        ended = [session_of(row) for row in connection.execute(some, {**among, "limit": limit})]
        self._remove(connection, bulk.kind, [RecordedEnd(each.digest, bulk.reason, bulk.actor) for each in ended])
        # Others may have ended some of those chosen here, so that few say nothing about the rest.
        any_left = statements.any_left(bulk.filters, live_only=bulk.live_only)
        return ended, len(ended) == limit or bool(connection.execute(any_left, among).scalar_one())

    def sweep(self, connection: Connection, *, from_cleanup_at: datetime, limit: int) -> Swept:
        """Remove at most ``limit`` expired sessions from ``from_cleanup_at`` on, the longest expired first."""
        wanted: dict[str, Any] = {"from_cleanup_at": from_cleanup_at, "limit": limit}
        if connection.dialect.name == "postgresql":
            swept = connection.execute(sweep.sweep(), wanted).one()
        else:
            wanted["moment"] = connection.execute(sweep.moment()).scalar_one()
            swept = connection.execute(sweep.count_expired(), wanted).one()
            connection.execute(sweep.record_expired(), wanted)
            connection.execute(sweep.remove_expired(), wanted)
        return Swept(swept.removed, swept.last or from_cleanup_at)

    def _remove(self, connection: Connection, kind: EventKind, ends: Sequence[RecordedEnd]) -> None:
        """Remove locked sessions, each after its event: a row that goes without one was removed by somebody else."""
        if not ends:
            return
        self._events.record_ends(connection, kind, ends)
        dialect = connection.dialect.name
        given = GIVEN_DIGESTS.parameters(dialect, [(end.digest,) for end in ends])
        connection.execute(statements.delete_sessions(dialect), given)

    def page(
        self,
        connection: Connection,
        filters: Mapping[str, str],
        *,
        limit: int,
        after: tuple[datetime, bytes] | None,
    ) -> list[Session]:
        """Return at most ``limit`` live sessions, newest first, behind the session named by ``after``."""
        parameters: dict[str, Any] = {**filters, "limit": limit}
        if after is not None:
            parameters["cursor_created_at"], parameters["cursor_digest"] = after
        statement = statements.page_of_sessions(filters, continued=after is not None)
        return [session_of(row) for row in connection.execute(statement, parameters)]

    def find_by_prefix(self, connection: Connection, prefix: str, *, limit: int) -> list[Session]:
        """Return at most ``limit`` live sessions whose digest starts with these hex digits."""
        lowest, highest = digests_from(prefix)
        parameters = {"lowest": lowest, "highest": highest, "limit": limit}
        return [session_of(row) for row in connection.execute(statements.find_by_prefix(), parameters)]

    def count_live(self, connection: Connection, filters: Mapping[str, str]) -> int:
        """Count the live sessions of this owner."""
        return connection.execute(statements.count_live(filters), filters).scalar_one()

    def count_rows(self, connection: Connection, *, up_to: int) -> int:
        """Count rows, expired ones too, but no further than ``up_to``."""
        return connection.execute(statements.count_rows_up_to(), {"limit": up_to}).scalar_one()


def rows_of(uses: Iterable[Use]) -> Sequence[tuple[Any, ...]]:
    """Return these uses as rows of ``GIVEN_USES``, equal ones once."""
    return [row_of(use) for use in dict.fromkeys(uses)]


def row_of(use: Use) -> tuple[Any, ...]:
    """Return a use as a row of ``GIVEN_USES``."""
    if use.owner is TRUSTED:
        return use.digest, *parts_of(Owner()), True
    return use.digest, *parts_of(use.owner), False


def _by_digest(rows: Iterable[Row[*tuple[Any, ...]]]) -> dict[bytes, Session]:
    return {session.digest: session for session in map(session_of, rows)}
