"""Messages while the database restarts and connections that listen are lost: what was acknowledged comes, in order."""

import asyncio
from collections.abc import Sequence
from itertools import count

import pytest

from mcp_sessions import DatabaseError, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.mailboxes import OpenMailbox, Received
from tests.support.managers import ON_POSTGRES, eventually
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows

pytestmark = [ON_POSTGRES, pytest.mark.slow, pytest.mark.timeout(300)]

WAYS = ("one", "all")
RESTARTS = [3, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(900)])]


class Senders:
    """Workers that each send numbered messages, to one worker and to all in turns, until they are told to stop."""

    def __init__(self, mailboxes: Sequence[Received], receiver: Received, digest: bytes) -> None:
        self.acknowledged: dict[str, list[int]] = {f"{way} {n}": [] for n in range(len(mailboxes)) for way in WAYS}
        self.faults = 0
        self._mailboxes = mailboxes
        self._receiver = receiver
        self._digest = digest
        self._stopping = asyncio.Event()

    async def send(self) -> None:
        """Send until ``stop``."""
        async with asyncio.TaskGroup() as group:
            for number, mailbox in enumerate(self._mailboxes):
                for way in WAYS:
                    group.create_task(self._send(mailbox, f"{way} {number}"))

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()

    async def _send(self, mailbox: Received, series: str) -> None:
        to = self._receiver if series.startswith("one") else None
        for number in count():
            if self._stopping.is_set():
                return
            try:
                if await mailbox.send("greeting", f"{series} {number}", self._digest, to=to):
                    self.acknowledged[series].append(number)
            except DatabaseError:  # it may have been stored, or not
                self.faults += 1
                await asyncio.sleep(0.02)


def received_by(receiver: Received) -> dict[str, list[int]]:
    """Return the numbers that came, by series, in the order in which they came."""
    series: dict[str, list[int]] = {}
    for body in receiver.bodies:
        name, _, number = body.rpartition(" ")
        series.setdefault(name, []).append(int(number))
    return series


@pytest.mark.parametrize("restarts", RESTARTS)
async def test_nothing_is_lost_over_restarts_of_the_database(
    open_mailbox: OpenMailbox, manager: SessionManager, postgres_server: PostgresServer, restarts: int
) -> None:
    """Each message whose sender was told that it is stored comes once, and each sender's come in its order."""
    digest = digest_of(await manager.create_session())
    receiver, *others = [await open_mailbox(statement_timeout=2, connect_timeout=2) for _ in range(3)]
    senders = Senders(others, receiver, digest)
    sending = asyncio.create_task(senders.send())
    rows = Rows(manager.settings.database_url)
    for _ in range(restarts):
        await more_than(receiver, 100)
        await asyncio.to_thread(postgres_server.restart)
        await more_than(receiver, 100)
        await rows.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    senders.stop()
    await sending
    last = {name: numbers[-1] for name, numbers in senders.acknowledged.items()}
    await eventually(
        lambda: all(number in received_by(receiver)[name] for name, number in last.items()), "the last of each"
    )
    came = received_by(receiver)
    for name, numbers in senders.acknowledged.items():
        assert sorted(set(came[name])) == came[name], name
        assert set(numbers) <= set(came[name]), name
    assert senders.faults > 0


async def more_than(receiver: Received, number: int) -> None:
    """Wait until so many more messages have come."""
    wanted = len(receiver.messages) + number
    await eventually(lambda: len(receiver.messages) > wanted, "more messages", seconds=30)
