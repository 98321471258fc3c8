"""The sessions repository: what happens to rows of ``sessions``, many at a time."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select
from sqlalchemy.sql.dml import ReturningDelete

from mcp_sessions.db.expressions import GIVEN_DIGESTS, GIVEN_SESSIONS, GIVEN_USES
from mcp_sessions.db.statements import handshakes
from mcp_sessions.db.statements import sessions as statements
from mcp_sessions.db.types import utc
from mcp_sessions.model import OWNER_FIELDS, Handshake, NewSession, Owner, Session, Timeouts

BEGINNING_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class Use(NamedTuple):
    """A use of a session: the digest, and the owner that it must have (``None``: trusted code, whoever it is)."""

    digest: bytes
    owner: Owner | None

    def admits(self, session: Session) -> bool:
        """Tell whether the session is the one meant, and its owner the given one, as a whole."""
        return self.digest == session.digest and self.owner in (None, session.owner)


@dataclass(frozen=True, slots=True)
class FoundSession:
    """A row as it was read: the session, whether it is live, and whether its next touch is due."""

    session: Session
    live: bool
    due: bool


class Swept(NamedTuple):
    """One batch of a sweep: what it removed, and where the next batch starts."""

    sessions: list[Session]
    next_cleanup_at: datetime


class EndedBatch(NamedTuple):
    """One batch of a bulk end: what it ended, and whether anything is left to end."""

    sessions: list[Session]
    more: bool


def session_of(row: Sequence[Any]) -> Session:
    """Map a row of ``statements.SESSION_COLUMNS``: the one place that does."""
    digest, tenant_id, client_id, issuer, subject, created_at, last_activity_at, expires_at = row[:8]
    owner = _owner_of(tenant_id, client_id, issuer, subject)
    return Session(bytes(digest), owner, utc(created_at), utc(last_activity_at), utc(expires_at))


_owner_of = lru_cache(maxsize=4096)(Owner)  # the owners of hot sessions repeat, and checking their text takes time


class SessionRepository:
    """Rows of ``sessions``, under one set of timeouts."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._bounded = timeouts.absolute is not None
        self._window = statements.expiry_window(timeouts)

    def insert(self, connection: Connection, new: Sequence[NewSession]) -> set[bytes]:
        """Store new sessions and return the digests stored; one that is missing was taken, and is untouched."""
        dialect = connection.dialect.name
        statement = statements.insert_sessions(dialect, bounded=self._bounded)
        given = GIVEN_SESSIONS.parameters(dialect, [(each.digest, *_parts(each.owner)) for each in new])
        stored = {bytes(row[0]) for row in connection.execute(statement, given | self._window)}
        recorded = [
            {
                "session_digest": each.digest,
                "protocol_version": each.handshake.protocol_version,
                "initialize": each.handshake.initialize,
            }
            for each in new
            if each.handshake is not None and each.digest in stored
        ]
        if recorded:
            connection.execute(handshakes.insert_handshakes(), recorded)
        return stored

    def find_handshakes(self, connection: Connection, digests: Collection[bytes]) -> dict[bytes, Handshake]:
        """Return the recorded handshakes of these sessions; one that has none is missing."""
        dialect = connection.dialect.name
        given = GIVEN_DIGESTS.parameters(dialect, [(digest,) for digest in digests])
        rows = connection.execute(handshakes.find_handshakes(dialect), given)
        return {bytes(digest): Handshake(version, initialize) for digest, version, initialize in rows}

    def end(self, connection: Connection, uses: Iterable[Use]) -> dict[bytes, Session]:
        """End the live sessions that these uses are entitled to, and return them."""
        dialect = connection.dialect.name
        given = GIVEN_USES.parameters(dialect, rows_of(uses))
        return _by_digest(connection.execute(statements.end_sessions(dialect), given))

    def newest_creation(self, connection: Connection) -> datetime | None:
        """Return the creation time of the newest session; None where there is no session at all."""
        newest: datetime | None = connection.execute(statements.newest_creation()).scalar_one()
        return newest

    def end_matching(
        self, connection: Connection, filters: Mapping[str, str], *, newest: datetime, limit: int
    ) -> EndedBatch:
        """End at most ``limit`` live sessions of this owner that are not younger than ``newest``."""
        end_some, any_left = statements.end_matching(filters), statements.any_matching(filters)
        return _end_some(connection, end_some, any_left, {**filters, "newest": newest}, limit)

    def clear(self, connection: Connection, *, newest: datetime, limit: int) -> EndedBatch:
        """Remove at most ``limit`` sessions, live or not, that are not younger than ``newest``."""
        return _end_some(connection, statements.clear_sessions(), statements.any_session(), {"newest": newest}, limit)

    def sweep(self, connection: Connection, *, from_cleanup_at: datetime, limit: int) -> Swept:
        """Remove at most ``limit`` expired sessions from ``from_cleanup_at`` on, the longest expired first."""
        rows = connection.execute(
            statements.sweep_sessions(), {"from_cleanup_at": from_cleanup_at, "limit": limit}
        ).all()
        return Swept([session_of(row) for row in rows], max((row.cleanup_at for row in rows), default=from_cleanup_at))

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
        lowest, highest = bytes.fromhex(prefix.ljust(64, "0")), bytes.fromhex(prefix.ljust(64, "f"))
        parameters = {"lowest": lowest, "highest": highest, "limit": limit}
        return [session_of(row) for row in connection.execute(statements.find_by_prefix(), parameters)]

    def count_live(self, connection: Connection, filters: Mapping[str, str]) -> int:
        """Count the live sessions of this owner."""
        return connection.execute(statements.count_live(filters), filters).scalar_one()

    def count_rows(self, connection: Connection, *, up_to: int) -> int:
        """Count rows, expired ones too, but no further than ``up_to``."""
        return connection.execute(statements.count_rows_up_to(), {"limit": up_to}).scalar_one()


def _parts(owner: Owner) -> tuple[str | None, ...]:
    return tuple(getattr(owner, name) for name in OWNER_FIELDS)


def rows_of(uses: Iterable[Use]) -> Sequence[tuple[Any, ...]]:
    """Return these uses as rows of ``GIVEN_USES``, equal ones once."""
    return [(digest, *_parts(owner or Owner()), owner is None) for digest, owner in dict.fromkeys(uses)]


def _by_digest(rows: Iterable[Row[*tuple[Any, ...]]]) -> dict[bytes, Session]:
    return {session.digest: session for session in map(session_of, rows)}


def _end_some(
    connection: Connection,
    end_some: ReturningDelete[Any],
    any_left: Select[bool],
    parameters: Mapping[str, Any],
    limit: int,
) -> EndedBatch:
    ended = [session_of(row) for row in connection.execute(end_some, {**parameters, "limit": limit})]
    # A batch falls short, too, where others ended what it had chosen: only a new look tells that nothing is left.
    return EndedBatch(ended, len(ended) == limit or connection.execute(any_left, parameters).scalar_one())
