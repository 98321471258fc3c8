"""Roles of the Postgres of the tests: of names that no other test has, and gone at the end."""

import uuid
from dataclasses import dataclass, field

import asyncpg
import pytest

from mcp_sessions.db import roles
from mcp_sessions.settings import Settings
from tests.support.rows import Rows

TABLES = (
    *("sessions", "session_handshakes", "client_settings", "session_state", "key_values"),
    *("session_events", "cleanup_runs", "mcp_sessions_alembic_version"),
)


async def refused(url: str, *statements: str) -> None:
    """Assert that this login is refused each of the statements for lack of a right."""
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await Rows(url).execute(statement)


@dataclass
class Roles:
    """Makes the roles of the package on one database, and logins that have them."""

    url: str
    schema: str | None = None
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    made: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """What leads to the database."""
        return Settings(database_url=self.url, database_schema=self.schema)

    async def make(self) -> None:
        """Make the four roles, or set them right again."""
        self.made = list(dict.fromkeys([*roles.role_names(self.prefix), *self.made]))
        await roles.apply(self.settings, roles.roles_sql(self.settings, self.prefix))

    async def make_tenant_auditor(self, tenant_id: str, *, name: str = "acme") -> str:
        """Make an auditor of one tenant who can log in, and return the URL to do so."""
        name = f"{self.prefix}_{name}"
        self.made = list(dict.fromkeys([*roles.role_names(self.prefix), *self.made, name]))
        await roles.apply(self.settings, roles.tenant_auditor_sql(self.settings, name, tenant_id, self.prefix))
        await Rows(self.url).execute(f'ALTER ROLE "{name}" LOGIN')
        return self._url_of(name)

    async def login(self, *having: str, rights: str = "") -> str:
        """Make somebody who can log in and has these of the roles; return the URL to do so."""
        name = f"{self.prefix}_login_{len(self.made)}"
        self.made.append(name)
        await Rows(self.url).execute(f'CREATE ROLE "{name}" LOGIN {rights}')
        for role in having:
            await Rows(self.url).execute(f'GRANT "{self.prefix}_{role}" TO "{name}"')
        return self._url_of(name)

    async def drop(self) -> None:
        """Drop all of them, with their rights and what they own."""
        rows = Rows(self.url)
        for name in self.made:
            if await rows.value(f"SELECT count(*) FROM pg_roles WHERE rolname = '{name}'"):
                await rows.execute(f'DROP OWNED BY "{name}"')
                await rows.execute(f'DROP ROLE "{name}"')

    def _url_of(self, name: str) -> str:
        scheme, _, place = self.url.partition("@")
        return f"{scheme.rpartition('/')[0]}/{name}@{place}"
