"""Messages between workers: addressed ones, ones for all, and what becomes of them without a wake-up."""

import asyncio

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.repositories import Message
from mcp_sessions.digests import digest_of
from mcp_sessions.messages.mailbox import Mailbox
from tests.support.mailboxes import OpenMailbox
from tests.support.managers import WITH_PGBOUNCER, OpenManager, eventually
from tests.support.rows import Rows

pytestmark = WITH_PGBOUNCER


@pytest.fixture
async def digest(manager: SessionManager) -> bytes:
    """The digest of a live session."""
    return digest_of(await manager.create_session())


async def test_a_message_reaches_the_worker_that_it_is_for(
    open_mailbox: OpenMailbox, digest: bytes, rows: Rows
) -> None:
    """It is handled there once, nowhere else, and leaves no row."""
    sender, receiver, other = [await open_mailbox() for _ in range(3)]
    assert await sender.send("greeting", "hello", digest, to=receiver)
    await eventually(lambda: receiver.bodies == ["hello"], "the message")
    assert receiver.messages[0].session_digest == digest
    assert await rows.count("messages") == 0
    assert not sender.bodies
    assert not other.bodies


async def test_a_message_to_all_reaches_every_other_worker_once(open_mailbox: OpenMailbox, digest: bytes) -> None:
    """Its sender does not hear it; about a session or about none makes no difference."""
    sender, *others = [await open_mailbox() for _ in range(3)]
    assert await sender.mailbox.send("greeting", "about one", session_digest=digest)
    assert await sender.mailbox.send("greeting", "about none")
    for each in others:
        await eventually(lambda each=each: len(each.bodies) == 2, "both messages")  # type: ignore[misc]
        assert each.bodies == ["about one", "about none"]
    assert not sender.bodies


async def test_many_messages_at_once_keep_their_order(open_mailbox: OpenMailbox, digest: bytes) -> None:
    """What one worker sends at the same moment arrives completely, and in the order of the calls."""
    sender, receiver = [await open_mailbox() for _ in range(2)]
    numbers = [str(number) for number in range(600)]
    assert all(await asyncio.gather(*(sender.send("greeting", number, digest, to=receiver) for number in numbers)))
    await eventually(lambda: len(receiver.bodies) == len(numbers), "all messages")
    assert receiver.bodies == numbers


async def test_nobody_is_told_so(open_mailbox: OpenMailbox, manager: SessionManager, digest: bytes) -> None:
    """A worker that never was or has stopped, and a session that has ended, are answered with False."""
    sender = await open_mailbox()
    assert not await sender.mailbox.send("greeting", "hello", session_digest=digest, worker_id="nobody")
    stopped = Mailbox(manager.database, manager.settings)
    async with stopped.opened():
        assert await sender.mailbox.lease.is_alive(stopped.worker_id)
    assert not await sender.mailbox.lease.is_alive(stopped.worker_id)
    assert not await sender.mailbox.send("greeting", "hello", session_digest=digest, worker_id=stopped.worker_id)
    await manager.terminate_digest(digest)
    assert not await sender.mailbox.send("greeting", "hello", session_digest=digest, worker_id=sender.mailbox.worker_id)


async def test_a_lone_worker_leaves_no_rows(open_mailbox: OpenMailbox, digest: bytes, rows: Rows) -> None:
    """Where no other worker is alive, a message for all of them is stored for nobody."""
    sender = await open_mailbox()
    assert not await sender.mailbox.send("greeting", "hello", session_digest=digest)
    assert not await sender.mailbox.send("greeting", "hello")
    assert await rows.count("messages") == 0


async def test_old_messages_and_dead_workers_are_cleaned_up(
    open_mailbox: OpenMailbox, manager: SessionManager, digest: bytes, rows: Rows
) -> None:
    """A cleanup removes what nobody has fetched within the retention, and workers whose lease is long over."""
    sender, _ = [await open_mailbox() for _ in range(2)]
    assert await sender.mailbox.send("greeting", "hello", session_digest=digest)
    await manager.cleanup_stale_sessions()
    assert (await rows.count("messages"), await rows.count("workers")) == (1, 2)
    long_ago = "'2001-01-01 00:00:00.000'"
    await rows.execute(f"UPDATE messages SET sent_at = {long_ago}")
    await rows.execute(f"UPDATE workers SET lease_until = {long_ago} WHERE worker_id <> '{sender.mailbox.worker_id}'")
    await manager.cleanup_stale_sessions()
    assert (await rows.count("messages"), await rows.count("workers")) == (0, 1)


async def test_a_message_goes_with_its_session(
    open_mailbox: OpenMailbox, manager: SessionManager, digest: bytes, rows: Rows
) -> None:
    """What nobody has read when the session ends is gone with it."""
    sender, _ = [await open_mailbox() for _ in range(2)]
    assert await sender.mailbox.send("greeting", "hello", session_digest=digest)
    assert await rows.count("messages") == 1
    await manager.terminate_digest(digest)
    assert await rows.count("messages") == 0


async def test_a_failing_handler_keeps_nobody_waiting(open_mailbox: OpenMailbox, digest: bytes) -> None:
    """The message after the one that could not be handled is handled."""
    sender, receiver = [await open_mailbox() for _ in range(2)]

    def fail(_message: Message) -> None:
        raise RuntimeError("cannot be handled")

    receiver.mailbox.on("broken", fail)
    assert await sender.send("broken", "", digest, to=receiver)
    assert await sender.send("unheard-of", "", digest, to=receiver)
    assert await sender.send("greeting", "hello", digest, to=receiver)
    await eventually(lambda: receiver.bodies == ["hello"], "the message after it")


@pytest.mark.parametrize("steps", range(4))
async def test_a_wake_up_in_the_moment_of_closing_keeps_nobody_waiting(open_manager: OpenManager, steps: int) -> None:
    """A mailbox that is closed while a wake-up is on its way closes, whichever step of the loop it meets."""
    manager = await open_manager()
    mailbox = Mailbox(manager.database, manager.settings)
    async with asyncio.timeout(5):
        async with mailbox.opened():
            with mailbox.waiting():
                await asyncio.sleep(0.05)  # it has looked once, and waits again
                with mailbox.waiting():  # which wakes it up
                    for _ in range(steps):
                        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "mcp-sessions mailbox"]


async def test_a_lapsed_lease_is_told_and_begun_anew(open_mailbox: OpenMailbox, digest: bytes, rows: Rows) -> None:
    """Where others took a worker to be dead, it hears of it once, and receives again afterwards."""
    sender = await open_mailbox()
    receiver = await open_mailbox(worker_lease=3)
    lapses: list[bool] = []
    receiver.mailbox.on_lapse(lambda: lapses.append(True))
    await rows.execute(f"UPDATE workers SET lease_until = started_at WHERE worker_id = '{receiver.mailbox.worker_id}'")
    assert not await sender.mailbox.lease.is_alive(receiver.mailbox.worker_id)
    await eventually(lambda: bool(lapses), "the worker to notice")

    async def arrives() -> None:
        while not await sender.send("greeting", "hello", digest, to=receiver):  # noqa: ASYNC110 - only a send can tell
            await asyncio.sleep(0.01)

    await asyncio.wait_for(arrives(), 5)
    await eventually(lambda: receiver.bodies == ["hello"], "the message")
    assert lapses == [True]
