"""``get_instance`` and ``reset_instance``: one shared manager per process."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import ConfigurationError, DatabaseError, ManagerClosedError, SessionManager
from tests.support.concurrency import together
from tests.support.managers import connections_are_back


@pytest.fixture(autouse=True)
async def no_shared_manager() -> AsyncIterator[None]:
    """No test finds a shared manager, or leaves one."""
    await SessionManager.reset_instance()
    yield
    await SessionManager.reset_instance()


async def test_everybody_gets_the_same_one(database_url: str) -> None:
    """All callers share the manager that the first of them opened, whether or not they repeat its settings."""
    idle = timedelta(minutes=7)
    first = await SessionManager.get_instance(database_url, idle_timeout=idle)
    assert first.settings.idle_timeout == idle
    assert await SessionManager.get_instance() is first
    assert await SessionManager.get_instance(database_url) is first
    assert await SessionManager.get_instance(idle_timeout=idle) is first
    assert await first.is_session_valid(await first.create_session())
    await connections_are_back(first)


async def test_who_come_at_the_same_time_share_it_too(database_url: str) -> None:
    """Callers that arrive while it is being opened wait for the same manager."""
    managers = await together(*(SessionManager.get_instance(database_url) for _ in range(10)))
    assert len(set(map(id, managers))) == 1


@pytest.mark.parametrize(
    "other", [{"idle_timeout": timedelta(minutes=8)}, {"pool_size": 9}, {"absolute_timeout": timedelta(days=1)}]
)
async def test_other_settings_are_an_error(database_url: str, other: dict[str, Any]) -> None:
    """A later call with different settings is told which of them differ; the manager stays as it is."""
    first = await SessionManager.get_instance(database_url)
    (name,) = other
    with pytest.raises(ConfigurationError, match=name):
        await SessionManager.get_instance(**other)
    assert await SessionManager.get_instance() is first


async def test_another_database_is_an_error_that_tells_no_password(database_url: str) -> None:
    """Neither URL is repeated: both may hold a password."""
    await SessionManager.get_instance(database_url)
    with pytest.raises(ConfigurationError, match="database_url") as caught:
        await SessionManager.get_instance("postgresql://ann:secret@db.example/sessions")
    assert "secret" not in str(caught.value)


async def test_a_reset_closes_it(database_url: str) -> None:
    """After a reset the old manager is closed, and the next call opens another, with settings of its own."""
    old = await SessionManager.get_instance(database_url)
    await SessionManager.reset_instance()
    with pytest.raises(ManagerClosedError):
        await old.create_session()
    new = await SessionManager.get_instance(database_url, idle_timeout=timedelta(minutes=8))
    assert new is not old
    assert await new.create_session()


async def test_a_reset_without_a_manager_does_nothing() -> None:
    """Resetting twice, or before the first use, is no error."""
    await SessionManager.reset_instance()
    await SessionManager.reset_instance()


async def test_a_failure_to_open_is_not_kept(sqlite_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All who wait get the error, and the next call tries anew."""
    missing = f"sqlite:///{tmp_path_factory.getbasetemp()}/no/such/folder/x.db"
    calls = (SessionManager.get_instance(missing) for _ in range(3))
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in failures] == [ConfigurationError] * 3
    assert await (await SessionManager.get_instance(sqlite_url)).create_session()


async def test_an_unreachable_database_is_an_error_each_time() -> None:
    """Until the database is there, each call says that it is not."""
    for _ in range(2):
        with pytest.raises(DatabaseError):
            await SessionManager.get_instance("postgresql://postgres@127.0.0.1:1/none")


async def test_who_asks_first_may_be_cancelled(database_url: str) -> None:
    """The manager belongs to the process: those who wait get it though the first caller was cancelled."""
    first = asyncio.create_task(SessionManager.get_instance(database_url))
    second = asyncio.create_task(SessionManager.get_instance(database_url))
    await asyncio.sleep(0)
    first.cancel()
    assert await (await second).create_session()


async def test_who_asks_first_may_end(database_url: str) -> None:
    """The manager stays open when the task that asked for it first is over."""
    manager = await asyncio.create_task(SessionManager.get_instance(database_url))
    assert await manager.create_session()


def test_a_new_event_loop_gets_a_new_one(sqlite_url: str) -> None:
    """Where an event loop ended with the shared manager still open, the next loop opens another."""

    async def used() -> SessionManager:
        manager = await SessionManager.get_instance(sqlite_url)
        await manager.create_session()
        return manager

    first = asyncio.run(used())
    second = asyncio.run(used())
    assert first is not second
