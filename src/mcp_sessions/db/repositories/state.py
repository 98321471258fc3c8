"""The state repository: entries of sessions' states, read and changed, many at a time."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.backend import Backend
from mcp_sessions.db.expressions import GIVEN_CHANGES, GIVEN_CHANGES_AND_VALUES, GIVEN_LIVES, GIVEN_NAMES
from mcp_sessions.db.statements import state as statements
from mcp_sessions.records.events import Actor
from mcp_sessions.records.sessions import Owner, parts_of

ChangeKind = Literal["set", "swap", "delete"]
"""What is to become of an entry: ``swap`` stores only where the version is the one expected."""

Outcome = Literal["done", "gone", "again", "lost", "apart", "entries", "size"]
"""What became of a change: ``gone``, there is no such live session; ``again``, somebody else was at the same session;
``lost``, the version is another one; ``apart``, it has to come without others of its session; ``entries`` and
``size``, it would have been too much. But for ``done``, nothing was changed."""


class Life(NamedTuple):
    """One life of a session, as its owner knows it: an id may be used again once its session has ended."""

    digest: bytes
    created_at: datetime
    owner: Owner

    @property
    def row(self) -> tuple[Any, ...]:
        """The beginning of a row of every ``Given`` of this repository."""
        return self.digest, self.created_at, *parts_of(self.owner)


class Stored(NamedTuple):
    """A value as it is stored: JSON text, or what a key made of it; ``size`` is what the plain text has in bytes."""

    value: str
    key_id: str | None
    size: int


class Entry(NamedTuple):
    """An entry as it was read; there is none of that name where the version is None."""

    version: int | None
    value: str | None
    key_id: str | None


class Change(NamedTuple):
    """A change of one entry; nothing is stored where it is removed."""

    life: Life
    name: str
    kind: ChangeKind
    version: int
    stored: Stored | None = None
    expected: int | None = None


class StateRepository(ABC):
    """Entries of sessions' states, under one set of limits; each method is for one caller at a time."""

    def __init__(self, database: Backend, *, max_entries: int, max_size: int) -> None:
        self._database = database
        dialect = self._dialect = database.dialect
        self._limits = {"max_entries": max_entries, "max_size": max_size}
        self._find = database.hot_statement(statements.find_entries(dialect), {})

    async def find(self, names: Sequence[tuple[Life, str]]) -> dict[int, Entry]:
        """Return entries by their places among the names; where a session is not live, there is none."""
        rows = [(*life.row, place, name) for place, (life, name) in enumerate(names)]
        found = await self._find.fetch(GIVEN_NAMES.parameters(self._dialect, rows))
        return {place: Entry(version, value, key_id) for place, version, key_id, value in found}

    async def whole(self, lives: Sequence[Life]) -> dict[int, dict[str, Entry]]:
        """Return all entries by their names, of each session that is live by its place."""
        listed = await self._database.read(partial(self._list, statement=statements.list_entries, lives=lives))
        return {
            place: {name: Entry(0, value, key_id) for name, key_id, value in entries}
            for place, entries in listed.items()
        }

    async def shown(self, life: Life, *, reason: str, actor: Actor) -> dict[str, Entry] | None:
        """Return all entries by their names for somebody to see, which is recorded; None where it is not live."""
        return await self._database.write(partial(self._shown, life=life, reason=reason, actor=actor))

    def _shown(self, connection: Connection, life: Life, reason: str, actor: Actor) -> dict[str, Entry] | None:
        given = GIVEN_LIVES.parameters(self._dialect, [(*life.row, 0)])
        recorded = connection.execute(statements.record_read(self._dialect), given | {"reason": reason, "actor": actor})
        if recorded.first() is None:
            return None
        entries = self._list(connection, statements.list_entries, [life]).get(0, [])
        return {name: Entry(0, value, key_id) for name, key_id, value in entries}

    async def sizes(self, life: Life) -> dict[str, int] | None:
        """Return the sizes of all entries by their names; None where the session is not live."""
        listed = await self._database.read(partial(self._list, statement=statements.list_sizes, lives=[life]))
        return dict(listed[0]) if listed else None

    @abstractmethod
    async def change(self, changes: Sequence[Change]) -> list[Outcome]:
        """Change entries, no two of them the same, and return what became of each."""

    async def clear(self, lives: Collection[Life]) -> dict[Life, Outcome]:
        """Remove all entries of sessions, and return what became of each: ``done``, ``gone`` or ``again``."""
        return await self._database.write(partial(self._cleared, lives=lives), repeatable=True)

    def _cleared(self, connection: Connection, lives: Collection[Life]) -> dict[Life, Outcome]:
        in_order = sorted(lives, key=lambda life: life.digest)
        given = GIVEN_LIVES.parameters(self._dialect, [(*life.row, place) for place, life in enumerate(in_order)])
        free = {bytes(digest) for (digest,) in connection.execute(statements.lock_lives(self._dialect), given)}
        for digest in sorted(free):
            connection.execute(statements.clear_state(), {"digest": digest})
            if self._dialect == "postgresql":
                connection.execute(statements.renew(), {"digest": digest})
        outcomes: dict[Life, Outcome] = dict.fromkeys(in_order, "gone")
        for place in self._list(connection, statements.list_sizes, in_order):
            life = in_order[place]
            outcomes[life] = "done" if life.digest in free else "again"
        return outcomes

    def _list(self, connection: Connection, statement: Any, lives: Sequence[Life]) -> dict[int, list[Any]]:
        given = GIVEN_LIVES.parameters(self._dialect, [(*life.row, place) for place, life in enumerate(lives)])
        listed: dict[int, list[Any]] = {}
        for place, *entry in connection.execute(statement(self._dialect), given):
            listed.setdefault(place, []).extend([entry] if entry[0] is not None else [])
        return listed


class _InOneStatement(StateRepository):
    """On Postgres: to judge changes and to make them is one statement."""

    def __init__(self, database: Backend, *, max_entries: int, max_size: int) -> None:
        super().__init__(database, max_entries=max_entries, max_size=max_size)
        # Not repeatable: a swap that was done would find its own version, and be taken for lost.
        self._change = database.hot_statement(statements.change_state(), {}, writes=True, repeatable=False)

    async def change(self, changes: Sequence[Change]) -> list[Outcome]:
        """Change entries."""
        rows = [
            (*_row_of(place, change), *((change.stored.key_id, change.stored.value) if change.stored else (None, None)))
            for place, change in enumerate(changes)
        ]
        given = GIVEN_CHANGES_AND_VALUES.parameters(self._dialect, rows)
        return _in_order(await self._change.fetch(given | self._limits))


class _InUnitsOfWork(StateRepository):
    """On SQLite, which cannot write and read in one statement."""

    async def change(self, changes: Sequence[Change]) -> list[Outcome]:
        """Change entries."""
        return await self._database.write(partial(self._changed, changes=changes))

    def _changed(self, connection: Connection, changes: Sequence[Change]) -> list[Outcome]:
        rows = [_row_of(place, change) for place, change in enumerate(changes)]
        given = GIVEN_CHANGES.parameters(self._dialect, rows)
        outcomes = _in_order(connection.execute(statements.judge_changes(), given | self._limits).all())
        done = [change for change, outcome in zip(changes, outcomes, strict=True) if outcome == "done"]
        if puts := [_columns_of(change, change.stored) for change in done if change.stored is not None]:
            connection.execute(statements.put_entry(), puts)
        gone = [
            {"gone_session_digest": each.life.digest, "gone_name": each.name} for each in done if each.stored is None
        ]
        if gone:
            connection.execute(statements.delete_entry(), gone)
        return outcomes


_OF_ENGINES: dict[str, type[StateRepository]] = {"postgresql": _InOneStatement, "sqlite": _InUnitsOfWork}


def session_states(database: Backend, *, max_entries: int, max_size: int) -> StateRepository:
    """Return the states of sessions in a database, in the way of its engine."""
    return _OF_ENGINES[database.dialect](database, max_entries=max_entries, max_size=max_size)


def _row_of(place: int, change: Change) -> tuple[Any, ...]:
    size = change.stored.size if change.stored is not None else 0
    return (*change.life.row, place, change.name, change.kind, change.expected, change.version, size)


def _columns_of(change: Change, stored: Stored) -> dict[str, Any]:
    return {
        "session_digest": change.life.digest,
        "name": change.name,
        "version": change.version,
        "size": stored.size,
        "key_id": stored.key_id,
        "value": stored.value,
    }


def _in_order(rows: Sequence[Sequence[Any]]) -> list[Outcome]:
    return [outcome for _, outcome in sorted((place, outcome) for place, outcome in rows)]
