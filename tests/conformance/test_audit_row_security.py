"""What the views show to whom: row-level security on the tables behind them, proven by real logins."""

import asyncpg
import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.roles import VIEWS, apply, roles_sql, tenant_auditor_sql
from mcp_sessions.db.schema.revisions import check_differences, downgrade, upgrade
from mcp_sessions.errors import ConfigurationError, DatabaseUnavailableError
from tests.support.roles import TABLES, Roles, refused
from tests.support.rows import Rows

ALL = {"acme", "globex", None}


@pytest.fixture(params=["postgres"])
def database_url(postgres_url: str) -> str:
    """The URL of a fresh, migrated Postgres database: nothing else has roles."""
    return postgres_url


@pytest.fixture
async def three_tenants(manager: SessionManager) -> None:
    """Leave sessions and events of two tenants, and of nobody."""
    for tenant_id in ("acme", "globex", None):
        await manager.terminate_session(await manager.create_session(tenant_id=tenant_id))
        await manager.create_session(tenant_id=tenant_id)
    await manager.stop_cleanup_interval()


pytestmark = pytest.mark.usefixtures("three_tenants")


async def seen(url: str, *first: str) -> set[str | None]:
    """Return whose rows a login sees, the same in every view, after some statements."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        for statement in first:
            await connection.execute(statement)
        shown = [{row["tenant_id"] for row in await connection.fetch(f"SELECT * FROM {view}")} for view in VIEWS]
    finally:
        await connection.close(timeout=10)
    assert shown == [shown[0]] * len(VIEWS)
    return shown[0]


async def test_an_auditor_of_a_tenant_sees_no_other(roles: Roles) -> None:
    """Each view shows an auditor of one tenant that tenant alone, by its name, by membership and by SET ROLE."""
    assert await seen(await roles.make_tenant_auditor("acme")) == {"acme"}
    assert await seen(await roles.login("acme")) == {"acme"}
    by_set_role_alone = await roles.login("acme", rights="NOINHERIT")
    await refused(by_set_role_alone, *(f"SELECT * FROM {view}" for view in VIEWS))
    assert await seen(by_set_role_alone, f'SET ROLE "{roles.prefix}_acme"') == {"acme"}


async def test_an_auditor_of_a_tenant_does_nothing_else(roles: Roles) -> None:
    """It is refused the tables, every change, the other roles, and every way around the policies."""
    url = await roles.make_tenant_auditor("acme")
    await refused(
        url,
        *(f"SELECT * FROM {table}" for table in TABLES),
        *(f'SET ROLE "{name}"' for name in ("postgres", *roles.made) if not url.endswith(name) and "acme" not in name),
        "UPDATE active_sessions SET tenant_id = 'globex'",
        "DELETE FROM active_sessions",
        "ALTER TABLE sessions DISABLE ROW LEVEL SECURITY",
        f'DROP POLICY "{roles.prefix}_acme" ON session_events',
        f'ALTER POLICY "{roles.prefix}_acme" ON sessions USING (true)',
        "CREATE POLICY mine ON sessions USING (true)",
        "ALTER VIEW active_sessions SET (security_invoker = true)",
        "ALTER VIEW active_sessions OWNER TO CURRENT_USER",
        "CREATE OR REPLACE VIEW active_sessions AS SELECT 1",
        "CREATE TABLE mine (n int)",
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await seen(url, "SET row_security = off")
    assert await seen(url) == {"acme"}


async def test_a_function_of_the_auditors_own_sees_no_other_tenant(roles: Roles) -> None:
    """A cheap function that fails on other tenants' rows is not even asked about them."""
    url = await roles.make_tenant_auditor("acme")
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute("""
            CREATE FUNCTION pg_temp.spy(tenant text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
            BEGIN
                IF tenant IS DISTINCT FROM 'acme' THEN RAISE EXCEPTION 'saw %', tenant; END IF;
                RETURN true;
            END
            $$
        """)
        for view in VIEWS:
            for query in ("SELECT * FROM {} WHERE pg_temp.spy(tenant_id)", "SELECT pg_temp.spy(tenant_id) FROM {}"):
                assert await connection.fetch(query.format(view))
    finally:
        await connection.close(timeout=10)


async def test_whoever_may_see_more_still_does(roles: Roles, rows: Rows) -> None:
    """Beside an auditor of one tenant, the auditor, the tables' owner and the tables' other readers see every row."""
    await roles.make_tenant_auditor("acme")
    await roles.make_tenant_auditor("globex", name="globex")
    assert await seen(await roles.login("acme", "globex")) == {"acme", "globex"}
    assert await seen(await roles.login("auditor")) == ALL
    assert await seen(await roles.login("auditor", "acme")) == ALL
    not_by_itself = await roles.login("acme")
    await rows.execute(f'GRANT "{roles.prefix}_auditor" TO "{roles.made[-1]}" WITH INHERIT FALSE')
    assert await seen(not_by_itself) == {"acme"}
    assert await seen(not_by_itself, f'SET ROLE "{roles.prefix}_auditor"') == ALL
    assert await seen(roles.url) == ALL

    reader = Rows(await roles.login())
    for table in ("sessions", "session_events"):
        await rows.execute(f'GRANT SELECT, DELETE ON {table} TO "{roles.made[-1]}"')
        assert {row["tenant_id"] for row in await reader.fetch(f"SELECT tenant_id FROM {table}")} == ALL
    await reader.execute("DELETE FROM sessions")
    assert await rows.count() == 0


async def test_what_no_policy_shows_is_hidden(roles: Roles, rows: Rows) -> None:
    """A role that was renamed, or whose policy is gone, sees nothing, and one that was dropped disturbs nobody."""
    url = await roles.make_tenant_auditor("acme")
    for table in ("sessions", "session_events"):
        await rows.execute(f'DROP POLICY "{roles.prefix}_acme" ON {table}')
    assert await seen(url) == set()

    url = await roles.make_tenant_auditor("acme")
    await rows.execute(f'ALTER ROLE "{roles.prefix}_acme" RENAME TO "{roles.prefix}_renamed"')
    roles.made.append(f"{roles.prefix}_renamed")
    assert await seen(url.replace("_acme@", "_renamed@")) == set()
    globex = await roles.make_tenant_auditor("globex", name="globex")
    assert await seen(globex) == {"globex"}


async def test_an_auditor_can_be_given_another_tenant(roles: Roles, manager: SessionManager) -> None:
    """Making the auditor again for another tenant, of whatever name, leaves them that one alone."""
    odd = 'o\'neill "%s" \\ $$'
    await manager.create_session(tenant_id=odd)
    await roles.make_tenant_auditor("acme")
    assert await seen(await roles.make_tenant_auditor(odd)) == {odd}


@pytest.mark.slow
async def test_views_made_anew_are_closed_until_the_roles_are_set_again(roles: Roles) -> None:
    """A migration that makes the views again leaves auditors without any; the same command mends it."""
    acme, auditor = await roles.make_tenant_auditor("acme"), await roles.login("auditor")
    await downgrade(roles.settings, "base")
    await upgrade(roles.settings)
    for url in (acme, auditor):
        await refused(url, *(f"SELECT * FROM {view}" for view in VIEWS))
    await roles.make_tenant_auditor("acme")
    async with SessionManager.open(roles.url, scheduled_cleanup=False) as manager:
        for tenant_id in ALL:
            await manager.create_session(tenant_id=tenant_id)
    assert await seen(auditor) == ALL
    assert await seen(acme) == {"acme"}


@pytest.mark.slow
async def test_an_owner_who_is_no_superuser(roles: Roles, rows: Rows) -> None:
    """The tables' owner needs but the right to make roles, and goes on to migrate with the roles in place."""
    url, owner = await roles.login(rights="CREATEROLE"), roles.made[-1]
    await rows.execute(f'CREATE SCHEMA theirs AUTHORIZATION "{owner}"')
    theirs = Roles(url, schema="theirs", prefix=f"{roles.prefix}_theirs")
    try:
        await upgrade(theirs.settings)
        for _ in range(2):
            acme = await theirs.make_tenant_auditor("acme")
            await check_differences(theirs.settings)
            async with SessionManager.open(url, database_schema="theirs", scheduled_cleanup=False) as manager:
                for tenant_id in ALL:
                    await manager.create_session(tenant_id=tenant_id)
            assert await seen(acme, "SET search_path TO theirs") == {"acme"}
            assert await seen(url, "SET search_path TO theirs") == ALL
            await downgrade(theirs.settings, "0003")
            await upgrade(theirs.settings)
    finally:
        await Roles(rows.url, made=theirs.made).drop()


async def test_an_auditor_cannot_take_the_place_of_another_role(roles: Roles) -> None:
    """An auditor of the name of the application's role would narrow what that may see: refused."""
    for role in ("application", "views", "by_right"):
        with pytest.raises(ConfigurationError, match="another role"):
            tenant_auditor_sql(roles.settings, f"{roles.prefix}_{role}", "acme", roles.prefix)


@pytest.mark.slow
async def test_a_table_in_use_is_not_waited_for_long(roles: Roles, rows: Rows) -> None:
    """While somebody uses a table, setting the roles gives up within seconds, and nothing has changed."""
    async with rows.transaction("SELECT 1 FROM sessions"):
        with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
            await apply(roles.settings, roles_sql(roles.settings, roles.prefix))
