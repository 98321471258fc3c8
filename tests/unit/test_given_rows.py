"""Rows sent along with a statement: on SQLite their digests are one BLOB, cut up by position."""

import pytest

from mcp_sessions.db.expressions import GIVEN_DIGESTS, GIVEN_SESSIONS, Given


@pytest.mark.parametrize("lengths", [(32, 31), (31, 33), (0, 64), (33, 32, 31)])
@pytest.mark.parametrize("given", [GIVEN_DIGESTS, GIVEN_SESSIONS], ids=["digests", "digests and owners"])
def test_a_digest_of_another_length_is_never_sent(given: Given, lengths: tuple[int, ...]) -> None:
    """Digests that would move others out of their places are an error, also where their lengths add up."""
    owner = (None,) * (len(given.columns) - 1)
    with pytest.raises(ValueError, match="32 bytes"):
        given.parameters("sqlite", [(bytes(length), *owner) for length in lengths])


def test_digests_stand_one_behind_the_other() -> None:
    """As many digests as rows, in their order."""
    parameters = GIVEN_DIGESTS.parameters("sqlite", [(b"a" * 32,), (b"b" * 32,)])
    assert parameters == {"given": "[0,0]", "given_session_digest": b"a" * 32 + b"b" * 32}
