"""Every statement on the key-value store. What has expired is not there any more, removed or not."""

from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Delete, Select, bindparam, delete, or_, select
from sqlalchemy.sql.dml import ReturningDelete

from mcp_sessions.db.expressions import GIVEN_DIGESTS, after, insert_into, now, seconds_between
from mcp_sessions.db.tables import key_values
from mcp_sessions.db.types import Duration


def _there() -> ColumnElement[bool]:
    return or_(key_values.c.expires_at.is_(None), key_values.c.expires_at > now())


@cache
def find_values(dialect: str) -> Select[Any]:
    """Read values by the digests of their keys, each with the seconds that it has left; null for ever."""
    given = GIVEN_DIGESTS.rows(dialect)
    left = seconds_between(now(), key_values.c.expires_at)
    return (
        select(key_values.c.key_digest, key_values.c.key_id, key_values.c.value, key_values.c.expires_at, left)
        .join_from(given, key_values, given.c.session_digest == key_values.c.key_digest)
        .where(_there())
    )


@cache
def put_value(dialect: str, *, expires: bool) -> Any:
    """Store a value, whatever was there; ``expires``: after ``lifetime``."""
    expires_at = after(now(), bindparam("lifetime", type_=Duration())) if expires else None
    put = insert_into(key_values, dialect).values(
        key_digest=bindparam("key_digest"),
        collection=bindparam("collection"),
        expires_at=expires_at,
        key_id=bindparam("key_id"),
        value=bindparam("value"),
    )
    changed = {name: put.excluded[name] for name in ("collection", "expires_at", "key_id", "value")}
    return put.on_conflict_do_update(index_elements=["key_digest"], set_=changed)


@cache
def claim_key(dialect: str) -> Any:
    """Store an empty value for ``lifetime`` where there is none; no row where there is."""
    claim = insert_into(key_values, dialect).values(
        key_digest=bindparam("key_digest"),
        collection=bindparam("collection"),
        expires_at=after(now(), bindparam("lifetime", type_=Duration())),
        key_id=None,
        value="",
    )
    return claim.on_conflict_do_update(
        index_elements=["key_digest"], set_={"expires_at": claim.excluded.expires_at}, where=~_there()
    ).returning(key_values.c.key_digest)


@cache
def delete_values(dialect: str) -> ReturningDelete[Any]:
    """Remove the values of these keys that are there, and read the digests; the cleanup has the expired ones."""
    given = GIVEN_DIGESTS.rows(dialect)
    return (
        delete(key_values)
        .where(key_values.c.key_digest.in_(select(given.c.session_digest)), _there())
        .returning(key_values.c.key_digest)
    )


def remove_expired() -> Delete:
    """Remove at most ``limit`` values that have expired, the longest expired first."""
    expired = (
        select(key_values.c.key_digest)
        .where(key_values.c.expires_at <= now())
        .order_by(key_values.c.expires_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
    )
    # Asked again: somebody may have stored another value since, which has not expired.
    return delete(key_values).where(key_values.c.key_digest.in_(expired), key_values.c.expires_at <= now())
