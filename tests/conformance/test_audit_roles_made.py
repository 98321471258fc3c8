"""How ``db roles`` makes its roles: again and again, under any name, or not at all with a line of why."""

import pytest

from mcp_sessions.db import roles as database_roles
from mcp_sessions.errors import ConfigurationError, DatabaseError, SchemaRevisionError
from mcp_sessions.settings import Settings
from tests.support import plain
from tests.support.roles import Roles
from tests.support.rows import Rows


async def test_running_it_again_changes_nothing(roles: Roles) -> None:
    """All rights are the same after a second run, and one that was added by hand is taken away."""
    rows = Rows(roles.url)
    await roles.make_tenant_auditor("acme")
    before = await rights(rows)
    await roles.make()
    await roles.make_tenant_auditor("acme")
    assert await rights(rows) == before
    await rows.execute(f'GRANT DELETE ON session_events TO "{roles.prefix}_application"')
    assert await rights(rows) != before
    await roles.make()
    assert await rights(rows) == before


async def rights(rows: Rows) -> list[str]:
    """Return all rights on schemas, tables, views, sequences and functions, and who is in which role."""
    found = await rows.fetch("""
        SELECT format('%s %s %s', c.oid, c.relname, right_) AS line FROM pg_class c, unnest(c.relacl) AS right_
        UNION ALL SELECT format('%s %s', nspname, right_) FROM pg_namespace, unnest(nspacl) AS right_
        UNION ALL SELECT format('%s %s', proname, right_) FROM pg_proc, unnest(proacl) AS right_
        UNION ALL SELECT format('%s in %s', member::regrole, roleid::regrole) FROM pg_auth_members
    """)
    return sorted(row["line"] for row in found)


@pytest.mark.parametrize("prefix", ["odd \"name\" 'quoted' $$ %s", "Größe"])
async def test_names_are_quoted(postgres_url: str, prefix: str) -> None:
    """Names of roles may hold quotes and whatever else Postgres admits."""
    roles = Roles(postgres_url, prefix=f"{Roles(postgres_url).prefix} {prefix}")
    statements = database_roles.roles_sql(roles.settings, roles.prefix)
    names = database_roles.role_names(roles.prefix)
    try:
        await plain.execute(postgres_url, database_roles.as_script(statements))
        found = await plain.rows(postgres_url, "SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", list(names))
        assert {row["rolname"] for row in found} == set(names)
    finally:
        for name in names:
            quoted = '"{}"'.format(name.replace('"', '""'))
            await plain.execute(postgres_url, f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


async def test_a_database_without_tables_is_refused(empty_postgres_url: str) -> None:
    """Where the tables are missing, no role is made, and the error names the command that makes them."""
    roles = Roles(empty_postgres_url)
    with pytest.raises(SchemaRevisionError, match="db upgrade"):
        await roles.make()
    assert (
        await Rows(empty_postgres_url).value(f"SELECT count(*) FROM pg_roles WHERE rolname LIKE '{roles.prefix}%'") == 0
    )


async def test_who_may_not_make_roles_is_told_so(roles: Roles) -> None:
    """A login without the right to make roles gets a line of why, and changes nothing."""
    settings = Settings(database_url=await roles.login("application"))
    with pytest.raises(DatabaseError, match="permission denied"):
        await database_roles.apply(settings, database_roles.roles_sql(settings, f"{roles.prefix}_other"))


@pytest.mark.parametrize("prefix", ["", "x" * 52, "ä" * 27, "zero\0"])
async def test_impossible_names_are_refused(postgres_url: str, prefix: str) -> None:
    """A name that Postgres would cut or cannot hold is an error before anything is run."""
    settings = Settings(database_url=postgres_url)
    with pytest.raises(ConfigurationError, match="name"):
        database_roles.tenant_auditor_sql(settings, prefix and f"{prefix}_application", "acme", "mcp_sessions")


async def test_sqlite_has_no_roles(sqlite_url: str) -> None:
    """On SQLite the error says that there are no roles, and what protects the trail instead."""
    settings = Settings(database_url=sqlite_url)
    with pytest.raises(ConfigurationError, match="SQLite has no roles"):
        database_roles.roles_sql(settings, "mcp_sessions")
