"""Settings and URLs that make no sense: one error that names the setting, and nothing opened or created."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_sessions import ConfigurationError, McpSessionsError, SessionManager
from mcp_sessions.settings import load_settings

MINUTE = timedelta(minutes=1)


async def refused(url: str, **settings: Any) -> str:
    """Open with settings that make no sense, and return the message."""
    with pytest.raises(ConfigurationError) as caught:
        async with SessionManager.open(url, **settings):
            pass
    assert isinstance(caught.value, McpSessionsError)
    return str(caught.value)


POSITIVE = (
    "idle_timeout",
    "absolute_timeout",
    "cleanup_interval",
    "connect_timeout",
    "statement_timeout",
    "sqlite_busy_timeout",
)


@pytest.mark.parametrize("bad", [timedelta(0), -MINUTE, timedelta(days=3651), "soon", "", "-5m", []], ids=str)
async def test_durations_that_make_no_sense(empty_sqlite_url: str, bad: Any) -> None:
    """A duration that has to be positive is named when it is zero, negative, over ten years, or no duration."""
    for name in POSITIVE:
        assert name in await refused(empty_sqlite_url, **{name: bad})


@pytest.mark.parametrize("bad", [-MINUTE, timedelta(microseconds=-1), "now"], ids=str)
async def test_a_touch_interval_that_makes_no_sense(empty_sqlite_url: str, bad: Any) -> None:
    """Zero is a touch interval, a negative one is not."""
    assert "touch_interval" in await refused(empty_sqlite_url, touch_interval=bad)


async def test_timeouts_that_do_not_fit_together(empty_sqlite_url: str) -> None:
    """Both settings are named: idle above absolute, and a touch interval above idle."""
    message = await refused(empty_sqlite_url, idle_timeout=2 * MINUTE, absolute_timeout=MINUTE)
    assert "idle_timeout" in message
    assert "absolute_timeout" in message
    message = await refused(empty_sqlite_url, idle_timeout=MINUTE, touch_interval=2 * MINUTE)
    assert "touch_interval" in message
    assert "idle_timeout" in message


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("pool_size", 1),
        ("pool_size", 10**9),
        ("pool_size", "many"),
        ("cleanup_batch_size", 0),
        ("cleanup_batch_size", 10**9),
        ("max_batch", 0),
        ("max_queued", 0),
        ("sqlite_synchronous", "OFF"),
        ("sqlite_synchronous", "full; DROP TABLE sessions"),
        ("database_schema", 'a"; DROP SCHEMA public; --'),
        ("database_schema", ""),
        ("database_schema", "a" * 64),
        ("pgbouncer", "perhaps"),
        ("auto_upgrade", "perhaps"),
        ("idle_timout", MINUTE),
        ("database_ulr", "sqlite:///x.db"),
    ],
)
async def test_other_settings_that_make_no_sense(empty_sqlite_url: str, name: str, bad: Any) -> None:
    """Each is named, one that does not exist too: a misspelt setting is not ignored."""
    assert name in await refused(empty_sqlite_url, **{name: bad})


async def test_all_that_is_wrong_is_named_at_once(empty_sqlite_url: str) -> None:
    """Two wrong settings take one correction, not two attempts."""
    message = await refused(empty_sqlite_url, idle_timeout=-MINUTE, pool_size=0)
    assert "idle_timeout" in message
    assert "pool_size" in message


def test_the_environment_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong variable is named as the operator knows it; what is given in code wins over it."""
    monkeypatch.setenv("MCP_SESSIONS_IDLE_TIMEOUT", "soon")
    with pytest.raises(ConfigurationError, match="MCP_SESSIONS_IDLE_TIMEOUT"):
        load_settings()
    assert load_settings(idle_timeout=MINUTE).idle_timeout == MINUTE


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "sessions.db",
        "sqlite:",
        "sqlite:/",
        "sqlite://",
        "sqlite:///",
        "sqlite://sessions.db",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
        "sqlite:////tmp",
        "sqlite:////no/such/folder/sessions.db",
        f"sqlite:////{'long' * 2000}/sessions.db",
        f"sqlite:////tmp/{'long' * 200}.db",
        "sqlite:////tmp/nul\x00.db",
        "mysql://user:secret@localhost/sessions",
        "http://user:secret@localhost/sessions",
        "postgresql:/localhost/sessions",
        "postgresql://user:secret@localhost:port/sessions",
        "postgresql://user:secret@localhost:99999/sessions",
        "://user:secret@localhost",
        "\ud800",
    ],
    ids=lambda url: repr(url)[:60],
)
async def test_urls_that_make_no_sense(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is named, no password is repeated, and no file appears."""
    monkeypatch.chdir(tmp_path)
    message = await refused(url)
    assert "database_url" in message
    assert "secret" not in message
    assert not any(tmp_path.glob("*"))


@pytest.mark.parametrize("bad", [7, Path("x.db")], ids=repr)
async def test_a_url_that_is_no_text(bad: Any) -> None:
    """A path or a number is no URL."""
    assert "database_url" in await refused(bad)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite", "sqlite+pysqlite"])
async def test_sqlite_urls_as_people_have_them(tmp_path: Path, scheme: str) -> None:
    """Whatever driver a URL names, ours is used; the file is made and migrated."""
    async with SessionManager.open(f"{scheme}:///{tmp_path / 'x.db'}") as manager:
        assert await manager.is_session_valid(await manager.create_session())


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
async def test_postgres_urls_as_people_have_them(postgres_url: str, scheme: str) -> None:
    """Whatever driver a URL names, ours is used."""
    async with SessionManager.open(postgres_url.replace("postgresql", scheme, 1)) as manager:
        assert await manager.is_session_valid(await manager.create_session())


async def test_a_relative_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes lead to a file in the working directory, also by the default URL."""
    monkeypatch.chdir(tmp_path)
    async with SessionManager.open("sqlite:///x.db"), SessionManager.open():
        assert (tmp_path / "x.db").is_file()
        assert (tmp_path / "mcp-sessions.db").is_file()
