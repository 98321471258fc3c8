"""The function behind the triggers runs by the rights of the tables' owner: nobody else may put it to use."""

import asyncpg
import pytest

from mcp_sessions import SessionManager
from tests.support.roles import Roles
from tests.support.rows import Rows
from tests.support.trail import Trail

TAKE_OVER = """
    DO $attack$
    BEGIN
        CREATE TEMP TABLE session_events (
            occurred_at timestamptz, kind text, reason text, actor text, session_digest bytea,
            tenant_id text, client_id text, issuer text, subject text,
            session_created_at timestamptz, is_end boolean, lifetime_seconds double precision,
            UNIQUE (session_digest, session_created_at, is_end)
        );
        CREATE TEMP TABLE sessions (
            session_digest bytea, tenant_id text, client_id text, issuer text, subject text,
            created_at timestamptz, expires_at timestamptz
        );
        GRANT ALL ON session_events TO PUBLIC;
        CREATE FUNCTION pg_temp.as_the_owner() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            DELETE FROM public.session_events;
            RETURN NEW;
        END
        $$;
        CREATE TRIGGER theirs BEFORE INSERT ON session_events FOR EACH ROW EXECUTE FUNCTION pg_temp.as_the_owner();
        CREATE TRIGGER ours AFTER INSERT ON sessions REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION public.session_events_record();
        INSERT INTO sessions (session_digest) VALUES ('mine');
    END
    $attack$
"""
"""Whoever may use the function on a table of their own makes the owner insert into another, with a trigger there."""


@pytest.fixture(params=["postgres"])
def database_url(postgres_url: str) -> str:
    """The URL of a fresh, migrated Postgres database: nothing else has roles."""
    return postgres_url


async def take_over(url: str) -> None:
    """Have the trail deleted by the rights of the tables' owner."""
    await Rows(url).execute(TAKE_OVER)


async def test_nobody_borrows_the_owners_rights(roles: Roles, manager: SessionManager, trail: Trail) -> None:
    """No role of ours, and no login without any, may have the function run on a table of its own."""
    await manager.create_session()
    before = await trail.events()
    for having in ([], ["application"], ["cleaner"], ["auditor"], ["views"]):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"function public\.session_events_record"):
            await take_over(await roles.login(*having))
    assert await trail.events() == before


async def test_migrating_alone_keeps_the_function_to_its_owner(
    postgres_url: str, manager: SessionManager, trail: Trail
) -> None:
    """Nobody needs to have run ``db roles`` for that: the migration leaves the right to nobody else."""
    await manager.create_session()
    logins = Roles(postgres_url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"function public\.session_events_record"):
            await take_over(await logins.login())
    finally:
        await logins.drop()
    assert await trail.kinds() == ["created"]


async def test_making_the_roles_takes_the_right_away(
    roles: Roles, manager: SessionManager, trail: Trail, rows: Rows
) -> None:
    """Where everybody has the right, and could delete the trail by it, ``db roles`` takes it from them."""
    auditor = await roles.login("auditor")
    await rows.execute("GRANT EXECUTE ON FUNCTION session_events_record() TO PUBLIC")
    await manager.create_session()
    await take_over(auditor)
    assert await trail.events() == []
    await roles.make()
    await manager.create_session()
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"function public\.session_events_record"):
        await take_over(auditor)
    assert await trail.kinds() == ["created"]
