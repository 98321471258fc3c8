"""The names of an object's members are found however its text is cut, and those of what is within it are not."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions.asgi.member_names import MemberNames

WANTED = ("method", "result", "error")
NAMES = st.sampled_from(["method", "result", "error", 'a"b', "\\", "é", ""])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda within: st.lists(within, max_size=3) | st.dictionaries(NAMES, within, max_size=3),
    max_leaves=12,
)


def found(text: bytes, *cuts: int) -> list[str]:
    """The names in a text that comes in pieces."""
    names = MemberNames(*WANTED)
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[one:other] for one, other in pairwise(edges)]
    return [name for piece in pieces for name in names.feed(piece)]


@given(st.data(), st.lists(st.tuples(NAMES, VALUES), max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_names_are_those_that_a_parser_finds(
    data: st.DataObject, members: list[tuple[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    """Repeated ones are found again, in their order."""
    texts = [json.dumps({name: value}, ensure_ascii=ascii_only, indent=indent)[1:-1] for name, value in members]
    text = b"{%s}" % ",".join(texts).encode()
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    assert found(text, *cuts) == [name for name, _ in pairs if name in WANTED]


@given(st.sampled_from(["method", "result", "error"]), st.lists(st.integers(0, 50), max_size=4))
def test_escaped_names_are_found(name: str, cuts: list[int]) -> None:
    """A name is the same one in whichever letters it is escaped."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
    assert found(f'{{"{escaped}": 1}}'.encode(), *cuts) == [name]


@given(
    st.lists(
        st.sampled_from(['"', "\\", "{", "}", "[", "]", ":", ",", " ", "method", "a" * 70, "\\u006d"]), max_size=30
    )
)
def test_pieces_tell_what_the_whole_tells(parts: list[str]) -> None:
    """Whatever a text is, no JSON perhaps, it has the same names in any pieces, and raises nothing."""
    text = "".join(parts).encode()
    assert found(text, *range(len(text))) == found(text)


@pytest.mark.parametrize(
    "text", [b'[{"result": 1}]', b'{"%s": 1}' % (rb"\u0061" * 1_000), b'{"\xff": 1}', b'{"a', b"]}", b""]
)
def test_other_texts_have_no_such_names(text: bytes) -> None:
    """A text that is no such object, or no JSON at all, has none."""
    assert found(text) == []
