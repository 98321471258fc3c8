"""A real PgBouncer in transaction mode in front of the tests' Postgres, where the machine has the program."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.postgres import PostgresServer
from tests.support.processes import GuardedServer, accepts, free_port

# As by default, a client that sends a start-up parameter which PgBouncer does not know is refused. There are
# fewer server connections than a test has clients, so that clients really take turns.
_SETTINGS = """\
[databases]
* = host=127.0.0.1 port={postgres_port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
"""


def pgbouncer_program() -> str | None:
    """Find the program; Debian puts it where an ordinary user's PATH does not lead."""
    return shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


@dataclass(frozen=True)
class PgBouncer:
    """A running PgBouncer that pools connections to every database of one server."""

    port: int

    def url(self, database: str) -> str:
        """Return the URL of a database, by way of PgBouncer."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


@contextmanager
def running_pgbouncer(program: str, postgres: PostgresServer, **more: str) -> Iterator[PgBouncer]:
    """Run PgBouncer on a loopback port, with more settings by name."""
    bouncer = PgBouncer(free_port())
    server = GuardedServer("pgbouncer")
    try:
        settings = server.folder / "pgbouncer.ini"
        common = _SETTINGS.format(postgres_port=postgres.port, port=bouncer.port)
        settings.write_text(common + "".join(f"{name} = {value}\n" for name, value in more.items()))
        server.give(settings)
        server.start(program, settings, ready=lambda: accepts(bouncer.port))
        yield bouncer
    finally:
        server.close()
