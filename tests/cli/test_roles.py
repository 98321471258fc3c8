"""`db roles`: what it prints, what it applies, and what it asks. What the roles may do, the audit's tests tell."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.test_database import run_script
from tests.support.roles import Roles

ROLES = {"application", "cleaner", "auditor", "views"}


@pytest.fixture
def roles(postgres_url: str) -> Iterator[Roles]:
    """Names of roles on a fresh, migrated Postgres database; none is made yet."""
    roles = Roles(postgres_url)
    roles.made += [f"{roles.prefix}_{role}" for role in ("application", "cleaner", "auditor", "views", "acme")]
    yield roles
    asyncio.run(roles.drop())


def made(cli: CommandLine, roles: Roles) -> set[str]:
    """Return which of the roles there are."""
    found = cli.sql(f"SELECT rolname FROM pg_roles WHERE rolname LIKE '{roles.prefix}%'")
    return {row["rolname"].removeprefix(f"{roles.prefix}_") for row in found}


def test_prints_sql_that_makes_the_roles(roles: Roles) -> None:
    """Without `--apply` nothing is run; what is printed, given to the database's own shell, makes the roles."""
    cli = CommandLine(roles.url)
    printed = cli("db", "roles", "--prefix", roles.prefix)
    assert (printed.exit_code, printed.stderr, made(cli, roles)) == (0, "", set())
    run_script(roles.url, printed.stdout)
    assert made(cli, roles) == ROLES


def test_applies_it_after_a_yes(roles: Roles) -> None:
    """`--apply` needs a yes, makes the roles and names them; again, it is no error."""
    cli = CommandLine(roles.url)
    arguments = ("db", "roles", "--prefix", roles.prefix, "--apply")
    assert (cli(*arguments).exit_code, made(cli, roles)) == (2, set())
    names = ", ".join(roles.made[:4])
    for _ in range(2):
        result = cli(*arguments, "--yes")
        assert (result.exit_code, result.stdout) == (0, f"roles are set: {names}\n")
    assert made(cli, roles) == ROLES


@pytest.mark.parametrize("way", ["printed", "applied"])
def test_follows_the_search_path(roles: Roles, way: str) -> None:
    """Without a schema in the settings the tables are those that the search path leads to, as for the application."""
    cli, database = CommandLine(roles.url), roles.url.rpartition("/")[2]
    cli.sql('CREATE SCHEMA "Own"')
    cli.sql(f'ALTER DATABASE {database} SET search_path TO "Own"')
    assert cli("db", "upgrade").exit_code == 0
    arguments = ("db", "roles", "--prefix", roles.prefix)
    if way == "printed":
        run_script(roles.url, cli(*arguments).stdout)
    else:
        assert cli(*arguments, "--apply", "--yes").exit_code == 0
    application, views = (f"'{roles.prefix}_{role}'" for role in ("application", "views"))
    for schema, is_there in (('"Own"', True), ("public", False)):
        (row,) = cli.sql(f"""
            SELECT has_table_privilege({application}, '{schema}.sessions', 'INSERT') AS may_insert,
                   (SELECT viewowner = {views} FROM pg_views
                    WHERE viewname = 'active_sessions' AND schemaname = trim('{schema}', '"')) AS is_given,
                   (SELECT relrowsecurity FROM pg_class WHERE oid = '{schema}.sessions'::regclass) AS has_policies
            """)
        assert set(row.values()) == {is_there}


def test_makes_an_auditor_of_one_tenant(roles: Roles) -> None:
    """`--auditor` with `--tenant` makes that role beside the others."""
    cli = CommandLine(roles.url)
    name = f"{roles.prefix}_acme"
    arguments = ("--prefix", roles.prefix, "--auditor", name, "--tenant", "acme")
    result = cli("db", "roles", *arguments, "--apply", "--yes")
    assert (result.exit_code, result.stdout) == (0, f"roles are set: {', '.join(roles.made)}\n")
    assert made(cli, roles) == {*ROLES, "acme"}


@pytest.mark.parametrize("arguments", [["--auditor", "someone"], ["--tenant", "acme"]])
def test_an_auditor_and_a_tenant_go_together(postgres_url: str, arguments: list[str]) -> None:
    """One without the other is refused: the auditor would see more, or the tenant be ignored."""
    result = CommandLine(postgres_url)("db", "roles", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "both --auditor and --tenant" in result.stderr


def test_sqlite_has_none(sqlite_cli: CommandLine) -> None:
    """On SQLite the command ends with 2 and a line that says what there is instead."""
    result = sqlite_cli("db", "roles")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "SQLite has no roles" in result.stderr
