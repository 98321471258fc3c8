"""Roles of the Postgres of the tests: of names that no other test has, and gone at the end."""

import uuid
from dataclasses import dataclass, field

from mcp_sessions.db import roles
from mcp_sessions.settings import Settings
from tests.support.rows import Rows


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
        """Make the three roles, or set them right again."""
        self.made = list(dict.fromkeys([*roles.role_names(self.prefix), *self.made]))
        await roles.apply(self.settings, roles.roles_sql(self.settings, self.prefix))

    async def make_tenant_auditor(self, tenant_id: str, *, name: str = "acme") -> str:
        """Make an auditor of one tenant who can log in, and return the URL to do so."""
        name = f"{self.prefix}_{name}"
        if name not in self.made:
            self.made.append(name)
        await roles.apply(self.settings, roles.tenant_auditor_sql(self.settings, name, tenant_id))
        await Rows(self.url).execute(f'ALTER ROLE "{name}" LOGIN')
        return self._url_of(name)

    async def login(self, role: str) -> str:
        """Make somebody who can log in and has one of the three roles; return the URL to do so."""
        name = f"{self.prefix}_who_is_{role}"
        self.made.append(name)
        await Rows(self.url).execute(f'CREATE ROLE "{name}" LOGIN IN ROLE "{self.prefix}_{role}"')
        return self._url_of(name)

    async def drop(self) -> None:
        """Drop all of them, with their rights and the schemas of auditors."""
        rows = Rows(self.url)
        for name in self.made:
            if await rows.value(f"SELECT count(*) FROM pg_roles WHERE rolname = '{name}'"):
                await rows.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
                await rows.execute(f'DROP OWNED BY "{name}"')
                await rows.execute(f'DROP ROLE "{name}"')

    def _url_of(self, name: str) -> str:
        assert "//postgres@" in self.url
        return self.url.replace("//postgres@", f"//{name}@")
