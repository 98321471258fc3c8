"""What is a value: exactly what JSON holds, within a bound that is kept before anything big is made."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions import InvalidInputError
from mcp_sessions.state.values import json_of, value_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_comes_back_as_it_was_given(value: Any) -> None:
    """Any JSON value, written and read, is the same, with the types of its parts."""
    text = json_of(value, most=1_000_000)
    assert text is not None
    assert repr(value_of(text)) == repr(value)


@given(VALUES, st.integers(1, 60))
def test_the_bound_is_that_of_the_text(value: Any, most: int) -> None:
    """A value is too big exactly where its shortest JSON text has more bytes than allowed."""
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    assert (json_of(value, most=most) is None) == (size > most)


def test_a_value_that_refers_to_itself_over_and_over_costs_no_time() -> None:
    """What is small in memory and would be vast as text is turned away after as many parts as the bound has bytes."""
    value: Any = [0]
    for _ in range(60):
        value = [value, value]
    began = time.process_time()
    assert json_of(value, most=10_000) is None
    assert time.process_time() - began < 1


@pytest.mark.parametrize("value", [(), {1: 2}, float("nan"), "\ud800", {"\ud800": 1}, b"", {1}, object(), [[()]]])
def test_what_is_no_json(value: Any) -> None:
    """What Python's encoder would take or change without a word is refused, however deep it stands."""
    with pytest.raises(InvalidInputError, match=r"^a value must"):
        json_of([{"a": value}], most=1000)
