"""Several hosts in a URL: sessions are read where they are written, and not on a standby that lags behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_sessions import DatabaseError, SessionManager
from tests.support.postgres import PostgresServer
from tests.support.schema import migrate


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    """A server of this module's own."""
    with PostgresServer(fsync=False) as server:
        migrate(server.url())
        yield server


@pytest.fixture
async def ended(primary: PostgresServer) -> str:
    """A session that is there when the standby is made, and ends afterwards."""
    async with SessionManager.open(primary.url(), scheduled_cleanup=False) as manager:
        return await manager.create_session()


@pytest.fixture
def standby(primary: PostgresServer, ended: str) -> Iterator[PostgresServer]:
    """A standby that lives in the past: in it, the session has not ended."""
    assert ended, "the session comes before the copy"
    primary.stop()
    standby = PostgresServer(fsync=False, standby_of=primary)
    primary.start()
    with standby:
        yield standby


@pytest.mark.slow
async def test_sessions_are_read_where_they_are_written(
    primary: PostgresServer, standby: PostgresServer, ended: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of several hosts the one is taken that can be written to, wherever they stand, unless the URL says otherwise."""
    place = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    url = f"postgresql://postgres@{place}/postgres"
    async with SessionManager.open(url, scheduled_cleanup=False) as manager:
        assert await manager.terminate_session(ended)
        assert not await manager.is_session_valid(ended)
    monkeypatch.setenv("PGHOST", place)
    async with SessionManager.open("postgresql://postgres@/postgres", scheduled_cleanup=False) as manager:
        assert not await manager.is_session_valid(ended)
    services = tmp_path / "pg_service.conf"
    services.write_text(f"[here]\nhost={','.join(['127.0.0.1'] * 2)}\nport={standby.port},{primary.port}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.delenv("PGHOST")
    named = "postgresql://postgres@/postgres?service=here"
    async with SessionManager.open(named, scheduled_cleanup=False) as manager:
        assert not await manager.is_session_valid(ended)
    async with SessionManager.open(f"{url}?target_session_attrs=any", scheduled_cleanup=False) as manager:
        assert await manager.is_session_valid(ended)  # which is why
        with pytest.raises(DatabaseError):
            await manager.create_session()
