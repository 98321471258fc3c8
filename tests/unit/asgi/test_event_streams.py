"""Event streams, byte by byte: where events end, what their data is, and the same events with other data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions.asgi.event_streams import EventSplitter, data_in, with_data

ENDS = [b"\n", b"\r", b"\r\n"]
LINES = [
    b"data: {}",
    b"data:x",
    b"data",
    b": comment",
    b"event: message",
    b"id: 7",
    b"retry: 3",
    b"datax: y",
    b"junk",
    b"",
]


def split(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    """What a splitter makes of a stream that comes in pieces."""
    splitter, events, before = EventSplitter(), list[bytes](), 0
    for cut in [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]:
        events += splitter.feed(stream[before:cut])
        before = cut
    return events, splitter.take(everything=True)


def dispatched(stream: bytes) -> list[bytes]:
    """The data of the events in a stream, read line by line as the specification does it."""
    found, data = list[bytes](), list[bytes]()
    *lines, _incomplete = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for line in lines:
        name, _, value = line.partition(b":")
        if not line:
            found += [b"\n".join(data)] if data else []
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return found


@given(
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)), max_size=12),
    st.lists(st.integers(0, 150), max_size=8),
)
def test_events_are_the_same_in_whatever_pieces_they_come(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """Nothing is lost or added, and the data of the events is what a client will read."""
    stream = b"".join(line + end for line, end in lines)
    events, rest = split(stream, cuts)
    assert b"".join(events) + rest == stream
    assert [data for event in events if (data := data_in(event)) is not None] == dispatched(stream)


@given(
    st.lists(st.tuples(st.sampled_from(LINES[:-1]), st.sampled_from(ENDS)), min_size=1, max_size=8),
    st.sampled_from(ENDS),
)
def test_event_keeps_all_but_its_data(lines: list[tuple[bytes, bytes]], end: bytes) -> None:
    """With other data an event has the same other lines in the same order, and that data in one line."""
    event = b"".join(line + end for line, end in lines) + end
    changed = with_data(event, b"new")
    if data_in(event) is None:
        assert changed == event
    else:
        assert data_in(changed) == b"new"
    others = [line for line, _ in lines if data_in(line) is None]
    assert [line for line in changed.splitlines() if line and data_in(line) is None] == others


def test_mark_at_the_beginning_of_a_stream_hides_no_data() -> None:
    """A byte order mark may stand before the first line."""
    assert data_in(b"\xef\xbb\xbfdata: x\n\n") == b"x"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_long_event_can_be_taken_piece_by_piece(size: int) -> None:
    """What has come of an event can be passed on before its end, and its end is found all the same."""
    stream = b"data: " + b"x" * 50 + b"\r\n\r\ndata: y\r\n\r\n"
    splitter, passed, ends = EventSplitter(), b"", list[bytes]()
    for at in range(0, len(stream), size):
        for event in splitter.feed(stream[at : at + size]):
            ends.append(event)
            passed += event
        passed += splitter.take()
    passed += splitter.take(everything=True)
    assert passed == stream
    assert len([end for end in ends if end.strip()]) <= 2
    assert ends[-1].endswith((b"\r\n\r", b"\r\n\r\n", b"\n\r\n"))
