"""Waves: how a batch of changes becomes statements that each change no entry twice.

Of several changes of one entry the next wave takes the first. Those that do not ask what was there before may stand
in for the ones before them, which they overwrite at once: as long as none of those is bigger, they fit where it fits.
Sessions whose changes were too much together have theirs made one by one.
"""

from collections.abc import Sequence

from mcp_sessions.db.repositories import Change, Life, Outcome

_Key = tuple[Life, str]


class Waves:
    """The waves of one batch: ``next`` gives the changes of one, and ``settle`` takes what became of them."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._outcomes: dict[int, Outcome] = {}
        self._waiting: dict[_Key, list[int]] = {}
        self._one_by_one: set[bytes] = set()
        self._wave: list[_Key] = []
        for place, change in enumerate(changes):
            self._waiting.setdefault((change.life, change.name), []).append(place)

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each change, in their order, once there is no wave left."""
        return [self._outcomes[place] for place in range(len(self._changes))]

    def next(self) -> list[Change]:
        """Return the changes of the next wave; none where all have been made."""
        begun: set[bytes] = set()
        self._wave = []
        for key in self._waiting:
            digest = key[0].digest
            if digest not in begun or digest not in self._one_by_one:
                self._wave.append(key)
            begun.add(digest)
        return [self._changes[self._front(key)[-1]] for key in self._wave]

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Take what became of the wave's changes."""
        for key, outcome in zip(self._wave, outcomes, strict=True):
            front = self._front(key)
            if outcome == "apart":
                self._one_by_one.add(key[0].digest)
                continue
            # What is too much stands for itself alone: the one before it may fit.
            settled = front[-1:] if outcome in ("entries", "size") else front
            self._outcomes |= dict.fromkeys(settled, outcome)
            left = [place for place in self._waiting.pop(key) if place not in settled]
            if left:
                self._waiting[key] = left

    def _front(self, key: _Key) -> list[int]:
        """Return the changes that the last one of them stands for."""
        waiting = self._waiting[key]
        front = biggest = 0
        for number, place in enumerate(waiting):
            change = self._changes[place]
            if change.kind == "swap":
                break
            size = change.stored.size if change.stored is not None else 0
            if size >= biggest:
                front, biggest = number + 1, size
        return waiting[: max(front, 1)]
