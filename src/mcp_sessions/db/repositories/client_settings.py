"""The client settings repository: what clients set for their sessions, read and replaced by version."""

from typing import NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.statements import client_settings as statements
from mcp_sessions.db.statements.sessions import lock_if_free


class StoredSettings(NamedTuple):
    """Settings as they are stored: the version, 0 where there are none, and the text, perhaps sealed."""

    version: int
    key_id: str | None
    text: str | None


class ClientSettingsRepository:
    """Rows of ``client_settings``, with their versions in ``sessions``."""

    def find(self, connection: Connection, digest: bytes) -> StoredSettings | None:
        """Return the settings of a session; None where it is not live."""
        row = connection.execute(statements.find_settings(), {"digest": digest}).first()
        return None if row is None else StoredSettings(*row)

    def replace(self, connection: Connection, digest: bytes, new: StoredSettings, *, read_version: int) -> bool:
        """Store settings; False, and nothing stored, where the session is not live, or others hold or changed it."""
        if connection.execute(lock_if_free(), {"digest": digest}).first() is None:
            return False
        versions = {"digest": digest, "read_version": read_version, "new_version": new.version}
        if connection.execute(statements.renew_version(), versions).first() is None:
            return False
        row = {"session_digest": digest, "key_id": new.key_id, "settings": new.text}
        connection.execute(statements.store_settings(connection.dialect.name), row)
        return True
