"""The Postgres schema of the operator's choice: tables, indexes, triggers and version lie there, nothing elsewhere."""

from datetime import timedelta

import pytest

from mcp_sessions import Owner, SchemaRevisionError, SessionManager
from mcp_sessions.db.schema.revisions import upgrade
from mcp_sessions.settings import Settings
from tests.support.managers import eventually_in_sql
from tests.support.rows import Rows


@pytest.fixture(params=["custom", "Mixed_Case", "select"])
async def schema(request: pytest.FixtureRequest, empty_postgres_url: str) -> str:
    """A schema of a given name, migrated; names that need quoting among them."""
    name: str = request.param
    await upgrade(Settings(database_url=empty_postgres_url, database_schema=name))
    return name


async def test_whole_lives_in_a_schema_of_ones_own(empty_postgres_url: str, schema: str) -> None:
    """Everything the manager does happens in that schema."""
    rows = Rows(empty_postgres_url)
    every_use = timedelta(0)
    async with SessionManager.open(empty_postgres_url, database_schema=schema, touch_interval=every_use) as manager:
        ids = [await manager.create_session(tenant_id="acme") for _ in range(4)]
        assert await manager.resume_session(ids[0], Owner("acme")) is not None
        assert await manager.terminate_session(ids[0])
        assert len(await manager.list_sessions(tenant_id="acme")) == 3
        by_hand = f"""UPDATE "{schema}".sessions SET expires_at = created_at WHERE {rows.among([ids[1]])}"""
        await rows.execute(by_hand)
        assert await manager.cleanup_stale_sessions() == 1
        assert await rows.count(f'"{schema}".sessions') == 2
        assert await rows.count(f'"{schema}".cleanup_runs') == 1
        assert await manager.terminate_sessions(tenant_id="acme") == 2


async def test_nothing_lies_elsewhere(empty_postgres_url: str, schema: str) -> None:
    """No table, index, function or version is made in any other schema."""
    elsewhere = await Rows(empty_postgres_url).fetch(f"""
        SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname NOT IN ('{schema}', 'pg_catalog', 'information_schema', 'pg_toast')
        UNION ALL
        SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
        WHERE nspname NOT IN ('{schema}', 'pg_catalog', 'information_schema')""")
    assert elsewhere == []


async def test_two_deployments_in_one_database(postgres_url: str) -> None:
    """Deployments in two schemas of one database share no session, and leave each other's rows alone."""
    rows = Rows(postgres_url)
    await upgrade(Settings(database_url=postgres_url, database_schema="custom"))
    async with (
        SessionManager.open(postgres_url) as one,
        SessionManager.open(postgres_url, database_schema="custom") as other,
    ):
        await one.create_session("same", tenant_id="acme")
        before = await rows.session("same")
        await other.create_session("same", tenant_id="other")
        assert await other.resume_session("same", Owner("acme")) is None
        assert await other.clear_all_sessions() == 1
        assert await rows.session("same") == before
        assert await one.is_session_valid("same")


async def test_a_schema_that_was_not_migrated(postgres_url: str) -> None:
    """A migrated neighbour is not taken for one's own."""
    with pytest.raises(SchemaRevisionError, match="none"):
        async with SessionManager.open(postgres_url, database_schema="other"):
            pass


async def test_the_schedule_works_there_too(empty_postgres_url: str, schema: str) -> None:
    """The scheduled cleanup finds its tables."""
    rows = Rows(empty_postgres_url)
    soon = timedelta(milliseconds=50)
    async with SessionManager.open(empty_postgres_url, database_schema=schema, cleanup_interval=soon):

        async def has_run() -> bool:
            return bool(await rows.value(f'SELECT count(ended_at) AS n FROM "{schema}".cleanup_runs'))

        await eventually_in_sql(has_run, "a cleanup run")
