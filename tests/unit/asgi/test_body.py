"""Request bodies: read whole within a bound, or remembered as they pass, to be read again."""

import asyncio
import sys
from datetime import timedelta
from typing import Any

import pytest

from mcp_sessions.asgi.body import (
    SHORT,
    BodyTooLargeError,
    BodyTooSlowError,
    ClientGoneError,
    NoRoomError,
    RepeatableBody,
    Room,
    declared_length,
    is_short,
    read_whole,
    whole,
)
from mcp_sessions.asgi.types import Message, Receive

GONE: Message = {"type": "http.disconnect"}


def piece(body: bytes, *, more: bool) -> Message:
    """A piece of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


def receiving(*messages: Message) -> Receive:
    """A ``receive`` that gives these messages, and fails when it is asked for more."""
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0)

    return receive


BOUNDS: dict[str, Any] = {"limit": 4, "patience": timedelta(seconds=10), "take": lambda _count: None}
THREE = (piece(b"ab", more=True), piece(b"", more=True), piece(b"cd", more=False))


async def test_body_is_read_to_its_end_and_no_further() -> None:
    """The pieces are put together up to the last one."""
    receive = receiving(*THREE, GONE)
    assert await read_whole(receive, **BOUNDS) == b"abcd"
    assert await receive() == GONE


async def test_message_without_its_defaults_is_an_empty_body() -> None:
    """ASGI lets a server leave out an empty body and the end."""
    assert await read_whole(receiving({"type": "http.request"}), **BOUNDS) == b""


async def test_body_beyond_its_bound_is_not_read_on() -> None:
    """One byte too many ends the reading, whatever may still come."""
    receive = receiving(piece(b"abc", more=True), piece(b"de", more=True), GONE)
    with pytest.raises(BodyTooLargeError):
        await read_whole(receive, **BOUNDS)
    assert await receive() == GONE


async def test_client_that_leaves_within_its_body() -> None:
    """A body that breaks off is none."""
    with pytest.raises(ClientGoneError):
        await read_whole(receiving(piece(b"ab", more=True), GONE), **BOUNDS)


async def test_whole_body_is_handed_over_before_what_comes_after_it() -> None:
    """A body that was read already comes first, then the client's further messages."""
    receive = whole(b"abcd", receiving(GONE))
    assert await receive() == piece(b"abcd", more=False)
    assert await receive() == GONE


async def test_body_is_repeated_from_the_beginning() -> None:
    """What was read is read again, and then what was not read yet."""
    body = RepeatableBody(receiving(*THREE, GONE), 4)
    assert [await body(), await body()] == list(THREE[:2])
    assert body.start_again()
    assert [await body() for _ in range(4)] == [*THREE, GONE]
    assert body.start_again()
    assert [await body() for _ in range(3)] == list(THREE)


@pytest.mark.parametrize("forgotten", ["told to", "too large"])
async def test_forgotten_body_cannot_be_repeated(forgotten: str) -> None:
    """Beyond its bound, or when told to, a body is passed on and not remembered."""
    body = RepeatableBody(receiving(*THREE, GONE), 3 if forgotten == "too large" else 4)
    assert [await body() for _ in range(3)] == list(THREE)
    if forgotten == "told to":
        body.forget()
    assert not body.start_again()
    assert await body() == GONE


async def test_body_that_does_not_come_is_waited_for_no_longer_than_that() -> None:
    """A client that stops in the middle of its body is told so in time."""
    started = [piece(b"ab", more=True)]

    async def receive() -> Message:
        if not started:
            await asyncio.Event().wait()
        return started.pop()

    with pytest.raises(BodyTooSlowError):
        await read_whole(receive, **{**BOUNDS, "patience": timedelta(milliseconds=10)})


async def test_room_is_taken_by_what_is_beyond_a_short_body_and_given_back() -> None:
    """Of each body the first 64 KiB are not counted; the rest is, until the body is let go."""
    room = Room(5)
    bounds = {**BOUNDS, "limit": SHORT + 10}
    long = (piece(bytes(SHORT - 1), more=True), piece(bytes(4), more=True), piece(bytes(1), more=False))
    with room.share() as take:
        assert len(await read_whole(receiving(*long), **{**bounds, "take": take})) == SHORT + 4
        with room.share() as other:
            short = receiving(piece(bytes(SHORT), more=False))
            assert len(await read_whole(short, **{**bounds, "take": other})) == SHORT
            with pytest.raises(NoRoomError, match="max_held_bodies"):
                await read_whole(receiving(*long), **{**bounds, "take": other})
    with room.share() as take:
        take(5)


@pytest.mark.parametrize(
    ("value", "told", "short"),
    [
        (None, None, False),
        (b"", None, False),
        (b"-1", None, False),
        (b"0", 0, True),
        (b"%d" % SHORT, SHORT, True),
        (b"%d" % (SHORT + 1), SHORT + 1, False),
        (b"9" * 5000, sys.maxsize, False),
    ],
)
def test_length_is_what_the_request_tells(value: bytes | None, told: int | None, short: bool) -> None:
    """A length is known where it is a number, be it of thousands of digits; short is only what says so."""
    scope = {"method": "POST", "headers": [] if value is None else [(b"content-length", value)]}
    assert (declared_length(scope), is_short(scope)) == (told, short)
