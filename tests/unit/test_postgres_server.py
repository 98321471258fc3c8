"""The tests' own Postgres: every other test on it relies on these promises."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import asyncpg
import psutil
import pytest

from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresServer
from tests.support.processes import poll


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own, to stop, kill and freeze."""
    with PostgresServer(fsync=False) as server:
        yield server


async def fetch(url: str, query: str) -> object:
    """Return the one value that a query on a new connection gives."""
    connection = await asyncpg.connect(url, timeout=5, statement_cache_size=0)
    try:
        return await connection.fetchval(query, timeout=5)
    finally:
        await connection.close(timeout=5)


async def test_it_answers_over_tcp(server: PostgresServer) -> None:
    """The server answers a query at its URL."""
    assert await fetch(server.url(), "SELECT 1") == 1


async def test_durability_is_chosen(server: PostgresServer) -> None:
    """`fsync=False` reaches the server, and durability is the default."""
    assert await fetch(server.url(), "SHOW fsync") == "off"
    with PostgresServer() as durable:
        assert await fetch(durable.url(), "SHOW fsync") == "on"


async def test_a_clone_has_what_its_template_has_and_is_isolated(server: PostgresServer) -> None:
    """Two clones start with the template's rows, and neither sees what the other writes."""
    server.create_database("notes")
    server.execute("CREATE TABLE notes AS SELECT 1 AS number", database="notes")
    with server.database(template="notes") as one, server.database(template="notes") as other:
        server.execute("INSERT INTO notes VALUES (2)", database=one)
        assert await fetch(server.url(one), "SELECT sum(number) FROM notes") == 3
        assert await fetch(server.url(other), "SELECT sum(number) FROM notes") == 1


async def test_a_database_is_dropped_although_somebody_is_connected(server: PostgresServer) -> None:
    """A connection that a test forgot does not keep its database beyond the making of the next one."""
    with server.database() as name:
        forgotten = await asyncpg.connect(server.url(name))
    with server.database():
        pass
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(server.url(name))
    forgotten.terminate()


async def test_committed_rows_outlive_a_restart(server: PostgresServer) -> None:
    """A restart cuts connections, keeps what was committed, and comes back on the same port."""
    with server.database() as name:
        server.execute("CREATE TABLE kept AS SELECT 7 AS number", database=name)
        connection = await asyncpg.connect(server.url(name))
        server.restart()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1", timeout=5)
        assert await fetch(server.url(name), "SELECT number FROM kept") == 7


async def test_committed_rows_outlive_a_kill(server: PostgresServer) -> None:
    """A killed server refuses connections, and recovers what was committed when it is started."""
    with server.database() as name:
        server.execute("CREATE TABLE kept AS SELECT 7 AS number", database=name)
        server.kill()
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(server.url(name), timeout=5)
        server.start()
        assert await fetch(server.url(name), "SELECT number FROM kept") == 7


async def test_a_frozen_server_does_not_answer(server: PostgresServer) -> None:
    """While the server is frozen an open connection and a new one wait; thawed, the open one goes on."""
    connection = await asyncpg.connect(server.url())
    server.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncpg.connect(server.url(), timeout=0.2)
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT 1", timeout=0.2)
    finally:
        server.thaw()
    assert await fetch(server.url(), "SELECT 1") == 1
    await connection.close(timeout=5)


async def test_the_server_runs_again_after_an_outage_test(server: PostgresServer) -> None:
    """A test may leave the server stopped: giving back its database starts it."""
    with server.database():
        server.stop()
    assert await fetch(server.url(), "SELECT 1") == 1


def test_a_failed_start_shows_the_log() -> None:
    """A server that does not come up says why, and leaves nothing behind."""
    server = PostgresServer(fsync=False, settings={"wal_level": "nonsense"})
    with pytest.raises(RuntimeError, match='invalid value for parameter "wal_level": "nonsense"'):
        server.start()
    server.close()
    assert not server.folder.exists()


def test_close_leaves_nothing_behind() -> None:
    """After `close` there is no process and no folder, even of a frozen server."""
    server = PostgresServer(fsync=False)
    server.start()
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    server.freeze()
    server.close()
    assert not any(process.is_running() for process in processes)
    assert not server.folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_nothing_outlives_interrupted_tests(number: signal.Signals) -> None:
    """However the tests' process ends, its server and its folder go too."""
    script = dedent("""
        import sys
        from tests.support.postgres import PostgresServer
        server = PostgresServer(fsync=False)
        server.start()
        print(server.pid, server.folder, flush=True)
        sys.stdin.read()
    """)
    pipe = subprocess.PIPE
    command, root = [sys.executable, "-c", script], Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) as tests:
        assert tests.stdout
        pid, folder = tests.stdout.readline().split()
        tests.send_signal(number)
    poll(lambda: not Path(folder).exists(), seconds=20, waiting_for="the folder to be removed")
    assert not psutil.pid_exists(int(pid))


async def test_pgbouncer_shares_server_connections(pgbouncer: PgBouncer, empty_postgres_url: str) -> None:
    """Behind PgBouncer in transaction mode, clients take turns on fewer server connections than they are."""
    database = empty_postgres_url.rpartition("/")[2]
    clients = [await asyncpg.connect(pgbouncer.url(database), statement_cache_size=0) for _ in range(10)]
    backends = {await client.fetchval("SELECT pg_backend_pid()") for client in clients}
    for client in clients:
        await client.close(timeout=5)
    assert len(backends) < len(clients)
