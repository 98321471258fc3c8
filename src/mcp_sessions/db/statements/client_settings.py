"""Every statement on what clients set for their sessions."""

from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, select, update
from sqlalchemy.sql.dml import Insert, ReturningUpdate

from mcp_sessions.db.expressions import insert_into
from mcp_sessions.db.statements.sessions import live
from mcp_sessions.db.tables import client_settings, sessions
from mcp_sessions.db.types import Digest

_MEANT = sessions.c.session_digest == bindparam("digest", type_=Digest)


@cache
def find_settings() -> Select[Any]:
    """Read what the client of a live session has set, and the version of it."""
    return (
        select(sessions.c.settings_version, client_settings.c.key_id, client_settings.c.settings)
        .join_from(sessions, client_settings, isouter=True)
        .where(_MEANT, live())
    )


@cache
def renew_version() -> ReturningUpdate[Any]:
    """Give the settings of a live session a ``new_version``, unless they are not of the ``read_version`` any more."""
    as_read = sessions.c.settings_version == bindparam("read_version")
    renewed = update(sessions).where(_MEANT, live(), as_read).values(settings_version=bindparam("new_version"))
    return renewed.returning(sessions.c.session_digest)


@cache
def store_settings(dialect: str) -> Insert:
    """Store settings, in the transaction that has renewed their version."""
    stored = insert_into(client_settings, dialect)
    kept = {name: stored.excluded[name] for name in ("key_id", "settings")}
    return stored.on_conflict_do_update(index_elements=[client_settings.c.session_digest], set_=kept)
