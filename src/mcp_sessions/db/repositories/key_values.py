"""The repository of the key-value store."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.expressions import GIVEN_DIGESTS
from mcp_sessions.db.statements import key_values as statements


class StoredValue(NamedTuple):
    """A value as it is stored, and the seconds that it has left; None for ever."""

    value: str
    key_id: str | None
    seconds_left: float | None


class NewValue(NamedTuple):
    """A value to be stored: the digest of its key, where it belongs, and how long it is to stay; None for ever."""

    key_digest: bytes
    collection: str
    value: str
    key_id: str | None
    lifetime: timedelta | None


class Claim(NamedTuple):
    """A key to be taken for so long."""

    key_digest: bytes
    collection: str
    lifetime: timedelta


class KeyValueRepository:
    """Rows of ``key_values``."""

    def find(self, connection: Connection, digests: Collection[bytes]) -> dict[bytes, StoredValue]:
        """Return the values of these keys that are there."""
        dialect = connection.dialect.name
        rows = connection.execute(statements.find_values(dialect), _given(dialect, digests))
        return {
            bytes(digest): StoredValue(value, key_id, None if expires_at is None else left)
            for digest, key_id, value, expires_at, left in rows
        }

    def put(self, connection: Connection, values: Sequence[NewValue]) -> None:
        """Store values, whatever was there; no two of the same key."""
        in_order = sorted(values)  # so that no two workers can deadlock
        for expires in (False, True):
            rows = [_row_of(each) for each in in_order if (each.lifetime is not None) == expires]
            if rows:
                connection.execute(statements.put_value(connection.dialect.name, expires=expires), rows)

    def claim(self, connection: Connection, claims: Sequence[Claim]) -> list[bool]:
        """Take keys, and tell of each whether nobody had it; of several claims of one key, the first takes it."""
        statement = statements.claim_key(connection.dialect.name)
        taken: dict[int, bool] = {}
        for place in sorted(range(len(claims)), key=lambda place: (claims[place].key_digest, place)):
            taken[place] = connection.execute(statement, claims[place]._asdict()).first() is not None
        return [taken[place] for place in range(len(claims))]

    def delete(self, connection: Connection, digests: Collection[bytes]) -> set[bytes]:
        """Remove the values of these keys, and return the keys of those that were there."""
        dialect = connection.dialect.name
        rows = connection.execute(statements.delete_values(dialect), _given(dialect, sorted(digests)))
        return {bytes(digest) for (digest,) in rows}

    def remove_expired(self, connection: Connection, *, limit: int) -> int:
        """Remove at most ``limit`` values that have expired, and return how many."""
        return connection.execute(statements.remove_expired(), {"limit": limit}).rowcount


def _given(dialect: str, digests: Collection[bytes]) -> dict[str, Any]:
    return GIVEN_DIGESTS.parameters(dialect, [(digest,) for digest in digests])


def _row_of(new: NewValue) -> dict[str, Any]:
    row = new._asdict()
    if new.lifetime is None:
        del row["lifetime"]
    return row
