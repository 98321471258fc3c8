"""Waves of changes: whatever a batch holds, its changes take effect as if they had come one by one."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions import Owner
from mcp_sessions.db.repositories import Change, Life, Outcome, Stored
from mcp_sessions.state.waves import Waves

LIVES = [Life(bytes([n]) * 32, datetime(2026, 1, 1, tzinfo=UTC), Owner()) for n in range(2)]
MOST_ENTRIES, MOST_BYTES = 2, 12

CHANGES = st.lists(
    st.builds(
        lambda life, name, kind, size, number: Change(
            life, name, kind, number, None if kind == "delete" else Stored(f"{number}", None, size), number % 5
        ),
        st.sampled_from(LIVES),
        st.sampled_from("abc"),
        st.sampled_from(["set", "set", "swap", "delete"]),
        st.integers(1, 9),
        st.integers(0, 1000),
    ),
    max_size=12,
)


class Table:
    """The rows, with the same judgement as the statements have: of several changes of a session, together."""

    def __init__(self) -> None:
        self.rows: dict[tuple[bytes, str], tuple[int, int]] = {}

    def change(self, changes: list[Change]) -> list[Outcome]:
        """Change entries, no two of them the same."""
        keys = [(each.life.digest, each.name) for each in changes]
        assert len(keys) == len(set(keys))
        outcomes = [self._judged(each, changes) for each in changes]
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome == "done":
                self.rows.pop((change.life.digest, change.name), None)
                if change.stored is not None:
                    self.rows[change.life.digest, change.name] = (change.version, change.stored.size)
        return outcomes

    def _judged(self, change: Change, changes: list[Change]) -> Outcome:
        company = [each for each in changes if each.life == change.life]
        there = self.rows.get((change.life.digest, change.name))
        if change.kind == "swap" and (there[0] if there else None) != change.expected:
            return "lost"
        entries, size = self._growth(change)
        mine = [row for (digest, _), row in self.rows.items() if digest == change.life.digest]
        all_entries, all_size = (sum(each) for each in zip(*map(self._growth, company), strict=True))
        too_many = entries > 0 and len(mine) + all_entries > MOST_ENTRIES
        too_big = size > 0 and sum(row[1] for row in mine) + all_size > MOST_BYTES
        if (too_many or too_big) and len(company) > 1:
            return "apart"
        return "entries" if too_many else "size" if too_big else "done"

    def _growth(self, change: Change) -> tuple[int, int]:
        there = self.rows.get((change.life.digest, change.name))
        if change.stored is None:
            return 0, 0
        return int(there is None), max(0, change.stored.size - (there[1] if there else 0))


@given(CHANGES)
def test_a_batch_is_as_good_as_its_changes_one_by_one_in_some_order(changes: list[Change]) -> None:
    """Each entry ends as its last change that was made left it; every change is answered, and no limit is passed."""
    table, waves = Table(), Waves(changes)
    count = 0
    while wave := waves.next():
        waves.settle(table.change(wave))
        count += 1
        assert count <= 2 * len(changes)
        for life in LIVES:
            mine = [row for (digest, _), row in table.rows.items() if digest == life.digest]
            assert len(mine) <= MOST_ENTRIES
            assert sum(size for _, size in mine) <= MOST_BYTES
    last = {
        (change.life.digest, change.name): change
        for change, outcome in zip(changes, waves.outcomes, strict=True)
        if outcome == "done"
    }
    expected = {key: change.version for key, change in last.items() if change.stored is not None}
    assert {key: version for key, (version, _) in table.rows.items()} == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_values_for_one_entry_need_one_statement(sizes: list[int]) -> None:
    """However many values come for one entry, none smaller than the one before, one of them is written: the last."""
    changes = [Change(LIVES[0], "a", "set", n, Stored(f"{n}", None, size)) for n, size in enumerate(sorted(sizes))]
    waves = Waves(changes)
    assert waves.next() == changes[-1:]
    waves.settle(["done"])
    assert waves.next() == []
    assert waves.outcomes == ["done"] * len(changes)
