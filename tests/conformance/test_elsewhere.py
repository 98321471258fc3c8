"""A manager used where it was not opened: on another event loop, in another thread or process. It says so at once."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mcp_sessions import ManagerElsewhereError, Owner, SessionManager
from tests.support.loops import run_apart

Call = Callable[[SessionManager], Coroutine[Any, Any, Any]]


async def _first_events(manager: SessionManager) -> Any:
    return await anext(manager.follow_events())


CALLS: dict[str, Call] = {
    "create": lambda manager: manager.create_session(),
    "resume": lambda manager: manager.resume_session("kept", Owner()),
    "valid": lambda manager: manager.is_session_valid("kept"),
    "touch": lambda manager: manager.touch_session("kept"),
    "handshake": lambda manager: manager.get_handshake(bytes(32)),
    "touch digests": lambda manager: manager.touch_digests([bytes(32)]),
    "live digests": lambda manager: manager.live_digests([bytes(32)]),
    "terminate": lambda manager: manager.terminate_session("kept"),
    "terminate many": lambda manager: manager.terminate_sessions(tenant_id="acme"),
    "clear": lambda manager: manager.clear_all_sessions(),
    "list": lambda manager: manager.list_sessions(),
    "count": lambda manager: manager.get_active_session_count(),
    "stats": lambda manager: manager.stats(),
    "events": lambda manager: manager.list_events(),
    "follow": _first_events,
    "cleanup": lambda manager: manager.cleanup_stale_sessions(),
    "start": lambda manager: manager.start_cleanup_interval(),
    "stop": lambda manager: manager.stop_cleanup_interval(),
    "close": lambda manager: manager._close(),
}


async def _refused(manager: SessionManager) -> list[str]:
    messages = []
    for call in CALLS.values():
        with pytest.raises(ManagerElsewhereError) as caught:
            await asyncio.wait_for(call(manager), 10)
        messages.append(str(caught.value))
    return messages


async def test_every_call_on_another_event_loop_is_an_error(manager: SessionManager) -> None:
    """In another thread's event loop every call fails at once and tells the cure; at home all goes on."""
    await manager.create_session("kept")
    messages = await asyncio.to_thread(run_apart, _refused(manager))
    assert all("another event loop" in each and "run_coroutine_threadsafe" in each for each in messages)
    assert await manager.is_session_valid("kept")


def test_a_manager_whose_event_loop_has_ended_is_an_error(database_url: str) -> None:
    """A manager left open by a loop that is over works on no other one."""
    opening = SessionManager.open(database_url)

    async def opened() -> SessionManager:
        return await opening.__aenter__()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        manager = first.run(opened())
        with pytest.raises(ManagerElsewhereError):
            second.run(manager.create_session())
        first.run(manager._close())


async def test_the_shared_manager_is_of_one_event_loop(database_url: str) -> None:
    """``get_instance`` and ``reset_instance`` on another loop fail at once and leave the shared manager as it is."""

    async def asked() -> None:
        for call in (SessionManager.get_instance(), SessionManager.reset_instance()):
            with pytest.raises(ManagerElsewhereError):
                await asyncio.wait_for(call, 10)

    shared = await SessionManager.get_instance(database_url)
    try:
        await asyncio.to_thread(run_apart, asked())
        assert await SessionManager.get_instance() is shared
        assert await shared.create_session()
    finally:
        await SessionManager.reset_instance()


FORKING = """
import asyncio, os, sys
from mcp_sessions import ManagerElsewhereError, SessionManager

opening = SessionManager.open(sys.argv[1])

async def opened():
    manager = await opening.__aenter__()
    await manager.create_session("kept")
    await SessionManager.get_instance(sys.argv[1])
    return manager

async def used(manager, where):
    try:
        await manager.is_session_valid("kept")
    except ManagerElsewhereError as error:
        print(where, error, flush=True)

async def forked_within(manager):
    if os.fork() == 0:
        try:
            await used(manager, "a coroutine's child:")
        finally:
            os._exit(0)
    os.wait()

async def shared():
    manager = await SessionManager.get_instance()
    print("its own:", await manager.is_session_valid("kept"), flush=True)
    await SessionManager.reset_instance()

loop = asyncio.new_event_loop()
manager = loop.run_until_complete(opened())
loop.run_until_complete(forked_within(manager))
if os.fork() == 0:
    loop.run_until_complete(used(manager, "the same loop:"))
    asyncio.run(used(manager, "a new loop:"))
    asyncio.run(shared())
    os._exit(0)
os.wait()
print("parent:", loop.run_until_complete(manager.is_session_valid("kept")), flush=True)
loop.run_until_complete(SessionManager.reset_instance())
loop.run_until_complete(manager._close())
"""


@pytest.mark.slow
async def test_a_manager_from_before_a_fork_is_an_error(database_url: str) -> None:
    """In a forked child each call fails at once, on whatever loop; a shared one is opened anew; the parent goes on."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, database_url]
    process = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"MCP_SESSIONS_DATABASE_URL": database_url},
    )
    told = process.stdout.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "a coroutine's child",
        "the same loop",
        "a new loop",
        "its own",
        "parent",
    ], process.stderr
    assert all("open a manager after the fork" in line for line in told[:3])
    assert [line.partition(": ")[2] for line in told[3:]] == ["True", "True"]
    assert process.stderr == ""
