"""What a worker asks about the sessions it holds: ``touch_digests`` and ``live_digests``, any number at once."""

from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions import InvalidInputError, SessionManager
from mcp_sessions.digests import digest_of
from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.rows import Rows

Ask = Callable[[SessionManager, Collection[bytes]], Awaitable[frozenset[bytes]]]

BOTH = pytest.mark.parametrize(
    "ask", [SessionManager.touch_digests, SessionManager.live_digests], ids=["touch", "live"]
)


async def live_sessions(manager: SessionManager, count: int) -> list[bytes]:
    """Create sessions and return their digests."""
    return [digest_of(session_id) for session_id in await together(*(manager.create_session() for _ in range(count)))]


@BOTH
async def test_a_digest_that_cannot_be_one_is_an_error_and_no_answer_for_its_neighbours(
    open_manager: OpenManager, rows: Rows, ask: Ask
) -> None:
    """Among whatever else is asked at the same moment, an entry that is not 32 bytes fails its own call alone."""
    manager = await open_manager(touch_interval=timedelta(0))
    digests = await live_sessions(manager, 4)
    bad: tuple[Any, ...] = (
        b"",
        b"short",
        b"x" * 31,
        b"x" * 33,
        bytearray(32),
        memoryview(bytes(32)),
        "a" * 32,
        None,
        7,
    )
    before = await rows.fetch("SELECT * FROM sessions ORDER BY session_digest")
    for wrong in bad:
        with pytest.raises(InvalidInputError, match="32 bytes"):
            await ask(manager, [digests[0], wrong, *digests[1:]])
    assert await rows.fetch("SELECT * FROM sessions ORDER BY session_digest") == before

    async def refused(wrong: Any) -> frozenset[bytes]:
        with pytest.raises(InvalidInputError):
            await ask(manager, [wrong])
        return frozenset()

    answers = await together(*(refused(wrong) for wrong in bad), *(ask(manager, [digest]) for digest in digests))
    assert answers[len(bad) :] == [frozenset([digest]) for digest in digests]


@BOTH
async def test_a_digest_alone_is_no_collection_of_them(manager: SessionManager, ask: Ask) -> None:
    """Whoever forgets the brackets is told so, and does not hear of 32 absent sessions."""
    (digest,) = await live_sessions(manager, 1)
    with pytest.raises(InvalidInputError, match="32 bytes"):
        await ask(manager, digest)  # type: ignore[arg-type]  # the point


@BOTH
async def test_none_and_the_same_twice(manager: SessionManager, ask: Ask) -> None:
    """No digest is no answer; one given several times is answered like one; what has no session is left out."""
    (digest,) = await live_sessions(manager, 1)
    assert await ask(manager, []) == frozenset()
    assert await ask(manager, [digest, bytes(32), digest, digest]) == frozenset([digest])


@BOTH
@pytest.mark.parametrize("max_queued", [1, 7])
async def test_more_digests_than_may_wait_are_no_overload(open_manager: OpenManager, ask: Ask, max_queued: int) -> None:
    """A worker that holds more sessions than calls may wait gets its answer, about all of them."""
    digests = await live_sessions(await open_manager(), 40)
    manager = await open_manager(max_queued=max_queued, touch_interval=timedelta(0))
    assert await ask(manager, digests) == frozenset(digests)


@pytest.mark.parametrize("max_batch", [1, 16, 5000])
async def test_others_find_room_beside_a_question_about_many(open_manager: OpenManager, max_batch: int) -> None:
    """While a worker asks about all its sessions, as many other calls as half the queue holds are served as well."""
    digests = await live_sessions(await open_manager(), 60)
    manager = await open_manager(max_queued=20, max_batch=max_batch)
    many, *others = await together(
        manager.live_digests(digests), *(manager.live_digests([digest]) for digest in digests[:10])
    )
    assert many == frozenset(digests)
    assert others == [frozenset([digest]) for digest in digests[:10]]
