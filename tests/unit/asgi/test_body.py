"""Request bodies: read whole within a bound, or remembered as they pass, to be read again."""

import pytest

from mcp_sessions.asgi.body import BodyTooLargeError, ClientGoneError, RepeatableBody, read_whole, whole
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


THREE = (piece(b"ab", more=True), piece(b"", more=True), piece(b"cd", more=False))


async def test_body_is_read_to_its_end_and_no_further() -> None:
    """The pieces are put together up to the last one."""
    receive = receiving(*THREE, GONE)
    assert await read_whole(receive, 4) == b"abcd"
    assert await receive() == GONE


async def test_message_without_its_defaults_is_an_empty_body() -> None:
    """ASGI lets a server leave out an empty body and the end."""
    assert await read_whole(receiving({"type": "http.request"}), 4) == b""


async def test_body_beyond_its_bound_is_not_read_on() -> None:
    """One byte too many ends the reading, whatever may still come."""
    receive = receiving(piece(b"abc", more=True), piece(b"de", more=True), GONE)
    with pytest.raises(BodyTooLargeError):
        await read_whole(receive, 4)
    assert await receive() == GONE


async def test_client_that_leaves_within_its_body() -> None:
    """A body that breaks off is none."""
    with pytest.raises(ClientGoneError):
        await read_whole(receiving(piece(b"ab", more=True), GONE), 4)


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
