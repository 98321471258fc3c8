"""The size of cleanup batches, which follows the time that they take."""

from itertools import repeat

import pytest

from mcp_sessions.cleanup.batch_size import BATCH_SECONDS, Pace


def test_grows_to_the_most_while_batches_are_quick() -> None:
    """Quick batches double from a small one up to the setting, and no further."""
    pace = Pace(1000)
    sizes = [pace.size]
    for seconds in repeat(BATCH_SECONDS / 10, 6):
        pace.adapt(seconds)
        sizes.append(pace.size)
    assert sizes == [100, 200, 400, 800, 1000, 1000, 1000]


def test_never_begins_above_the_most() -> None:
    """A setting below the usual first size holds from the first batch on."""
    assert Pace(7).size == 7


def test_shrinks_by_as_much_as_a_batch_was_too_slow() -> None:
    """After a batch of four times the wanted time, the next one takes a quarter of the rows."""
    pace = Pace(100)
    pace.adapt(4 * BATCH_SECONDS)
    assert pace.size == 25


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_recovers_from_any_time(seconds: float) -> None:
    """No time that a batch may have taken, a stall or none at all, keeps later batches from their full size."""
    pace = Pace(100)
    pace.adapt(seconds)
    assert 1 <= pace.size <= 100
    for _ in range(7):
        pace.adapt(BATCH_SECONDS / 4)
    assert pace.size == 100
