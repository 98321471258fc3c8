"""Databases for the tests: a fresh one for each test, of either engine, migrated or empty."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.pgbouncer import PgBouncer, pgbouncer_program, running_pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.schema import migrate

# Settings of the developer's own shell say nothing about a test.
for name in [name for name in os.environ if name.startswith("MCP_SESSIONS_")]:
    del os.environ[name]

# Where the tests were started in the background, these are ignored, and every process that they start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("default", deadline=None)
settings.register_profile("long", deadline=None, max_examples=2000, stateful_step_count=100)
settings.load_profile("default")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The Postgres of this run of the tests. A test that stops or freezes it need not mend that."""
    with PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a migrated Postgres database, to clone."""
    postgres_server.create_database("migrated")
    migrate(postgres_server.url("migrated"))
    return "migrated"


@pytest.fixture
def postgres_database(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The name of a fresh, migrated Postgres database."""
    with postgres_server.database(template=postgres_template) as name:
        yield name


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_database: str) -> str:
    """The URL of a fresh, migrated Postgres database."""
    return postgres_server.url(postgres_database)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh Postgres database without a schema."""
    with postgres_server.database() as name:
        yield postgres_server.url(name)


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode in front of the Postgres of this run."""
    program = pgbouncer_program()
    if program is None:
        pytest.skip("no pgbouncer on this machine (Debian and Ubuntu: apt-get install pgbouncer)")
    with running_pgbouncer(program, postgres_server) as bouncer:
        yield bouncer


@pytest.fixture
def pgbouncer_url(pgbouncer: PgBouncer, postgres_database: str) -> str:
    """The URL of the database of `postgres_url`, by way of PgBouncer."""
    return pgbouncer.url(postgres_database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate(_sqlite_url(file))
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh, migrated SQLite file."""
    file = tmp_path / "sessions.db"
    shutil.copyfile(sqlite_template, file)
    return _sqlite_url(file)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that does not exist yet."""
    return _sqlite_url(tmp_path / "empty.db")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh, migrated database, on one engine after the other."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh database without a schema, on one engine after the other."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


def _sqlite_url(file: Path) -> str:
    return f"sqlite:///{file}"
