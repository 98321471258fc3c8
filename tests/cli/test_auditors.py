"""The reading commands for whoever has only an auditor's role on Postgres: they show what the role may see."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.digests import digest_of
from tests.cli.conftest import CommandLine
from tests.support.roles import TABLES, Roles, refused

READING = [["list"], ["show", "--", "-"], ["count"], ["audit"], ["audit", "--session", "-"], ["stats"]]


@pytest.fixture
def roles(postgres_url: str) -> Iterator[Roles]:
    """The roles on a fresh, migrated Postgres database."""
    roles = Roles(postgres_url)
    try:
        asyncio.run(roles.make())
        yield roles
    finally:
        asyncio.run(roles.drop())


async def leave_a_trail(url: str) -> None:
    """Leave sessions of two tenants, one that ended, uses refused within a tenant and across, and a cleanup run."""
    async with SessionManager.open(url, scheduled_cleanup=False) as manager:
        await manager.create_session("of-acme", tenant_id="acme", client_id="cli", subject="ann")
        await manager.create_session("of-globex", tenant_id="globex", subject="bob")
        await manager.terminate_session(await manager.create_session(tenant_id="acme"))
        for stranger in (Owner("globex", subject="bob"), Owner("acme", subject="eve")):
            assert await manager.resume_session("of-acme", stranger) is None
        await manager.cleanup_stale_sessions()


@pytest.fixture
def cli(roles: Roles) -> CommandLine:
    """The command line on a database with a trail, as its owner."""
    asyncio.run(leave_a_trail(roles.url))
    return CommandLine(roles.url)


def answers(url: str) -> dict[str, Any]:
    """Return what each reading command prints as JSON for this login."""
    cli = CommandLine(url)
    found = {}
    for command in READING:
        result = cli(*command[:1], "--json", *command[1:], stdin="of-acme")
        assert (result.exit_code, result.stderr) == (0, ""), command
        found[" ".join(command)] = json.loads(result.stdout)
    found["stats"].pop("at")
    found["stats"].pop("hours")
    return found


@pytest.mark.slow
def test_an_auditor_reads_what_the_owner_reads(cli: CommandLine, roles: Roles) -> None:
    """With the auditor's role alone every reading command prints the same as for the tables' owner."""
    auditor = asyncio.run(roles.login("auditor"))
    assert answers(auditor) == answers(cli.url)
    assert answers(auditor)["stats"]["last_cleanup"] is not None
    assert CommandLine(auditor)("db", "current").exit_code == 0


@pytest.mark.usefixtures("cli")
def test_an_auditor_of_a_tenant_sees_that_tenant_alone(roles: Roles) -> None:
    """Each command shows the rows of that tenant, and of nobody else: no event, no number, no claim, no cleanup run."""
    auditor = asyncio.run(roles.make_tenant_auditor("acme"))
    found = answers(auditor)
    assert "globex" not in json.dumps(found)
    assert "bob" not in json.dumps(found)
    assert [each["digest"] for each in found["list"]["sessions"]] == [digest_of("of-acme").hex()]
    assert found["count"] == {"count": 1}
    assert found["stats"]["tenants"] == [{"tenant_id": "acme", "live": 1}]
    assert (found["stats"]["live"], found["stats"]["last_cleanup"]) == (1, None)
    events = found["audit"]["events"]
    assert sorted(each["kind"] for each in events) == ["created", "created", "refused", "refused", "terminated"]
    claims = {each["claimed_subject"] for each in events if each["kind"] == "refused"}
    assert claims == {"eve", None}
    missing = CommandLine(auditor)("show", stdin="of-globex")
    assert (missing.exit_code, missing.stdout) == (1, "")
    asyncio.run(refused(auditor, *(f"SELECT * FROM {table}" for table in TABLES), "TABLE audit_every_tenant"))


@pytest.mark.slow
def test_an_auditor_writes_nothing(cli: CommandLine, roles: Roles) -> None:
    """What ends sessions or cleans up is refused for lack of a right, and has done nothing."""
    auditor = CommandLine(asyncio.run(roles.login("auditor")))
    for command in (["terminate", "-"], ["clear", "--yes"], ["cleanup"], ["show", "--values"]):
        result = auditor(*command, stdin="of-acme")
        assert (result.exit_code, result.stdout) == (3, "")
        assert "permission denied" in result.stderr
    assert cli.lives("of-acme")
    asyncio.run(refused(auditor.url, *(f"DELETE FROM audit_{table}" for table in ("sessions", "session_events"))))


def test_who_has_no_role_is_told_how_to_get_one(cli: CommandLine, roles: Roles) -> None:
    """A login without any right gets a line with the command that sets rights."""
    assert cli.lives("of-globex")
    nobody = CommandLine(asyncio.run(roles.login()))
    for command in READING:
        result = nobody(*command, stdin="of-acme")
        assert (result.exit_code, result.stdout) == (3, "")
        assert "permission denied" in result.stderr
        assert "mcp-sessions db roles --apply" in result.stderr
