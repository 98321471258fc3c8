"""Calls on state, joined: what many callers ask at the same moment shares statements.

Two changes of one entry cannot be in one statement, so a batch of them goes in waves (see ``waves``); updates are
steps of reading, computing and storing (see ``updates``). Where somebody else was first, the caller asks again: that
costs time, never an update.
"""

import contextvars
import secrets
from asyncio import gather
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from mcp_sessions.batching.batcher import Batcher
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories import Change, Entry, Life, Outcome, Stored, session_states
from mcp_sessions.errors import (
    DatabaseHeldError,
    DatabaseRefusedError,
    McpSessionsError,
    OverloadedError,
    SessionEndedError,
)  # fmt: skip
from mcp_sessions.patience import Patience
from mcp_sessions.records.events import Actor
from mcp_sessions.sealing import Sealer
from mcp_sessions.settings import Settings
from mcp_sessions.state.limits import StateLimits
from mcp_sessions.state.updates import Found, Update, Updates
from mcp_sessions.state.values import value_of
from mcp_sessions.state.waves import Waves


class StateCalls:
    """Reads and changes the states of sessions: one call at a time for the caller, many for the database."""

    def __init__(self, database: Backend, settings: Settings, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._limits = StateLimits(settings)
        self._patience = settings.statement_timeout
        self._states = session_states(
            database, max_entries=settings.max_state_entries, max_size=settings.max_state_size
        )
        alike: dict[str, Any] = {"max_queued": settings.max_queued, "divisible": DatabaseRefusedError}
        alike["instruments"] = database.instruments
        most: dict[str, Any] = {"max_batch": settings.max_batch, **alike}
        updates = Updates(self._find_texts, self._swap, self._limits)
        self._finds = Batcher(self._find_all, name="state.get", cancellable=database.reads_are_cancellable, **most)
        self._lists = Batcher(self._list_all, name="state.all", **most)
        self._changes: Batcher[Change, Outcome] = Batcher(self._change_all, name="state.set", **most)
        self._clears = Batcher(self._clear_all, name="state.clear", **most)
        self._updates = Batcher(updates.run, name="state.update", **most)
        self._lone_updates = Batcher(updates.run, name="state.update, one by one", max_batch=1, **alike)

    async def get(self, life: Life, name: str, default: Any) -> Any:
        """Return a value, or the default where there is none."""
        entry = await self._finds.submit((life, name), deadline=self._database.deadline())
        text = self._text_of(life, name, entry)
        return default if text is None else value_of(text)

    async def all(self, life: Life) -> dict[str, Any]:
        """Return all values by their names."""
        entries = await self._lists.submit(life, deadline=self._database.deadline())
        return {name: value_of(self._text_of(life, name, entry) or "null") for name, entry in entries.items()}

    async def shown(self, life: Life, *, reason: str, actor: Actor) -> dict[str, Any]:
        """Return all values by their names for somebody to see, which leaves an event in the trail."""
        if (entries := await self._states.shown(life, reason=reason, actor=actor)) is None:
            raise SessionEndedError
        return {name: value_of(self._text_of(life, name, entry) or "null") for name, entry in entries.items()}

    async def sizes(self, life: Life) -> dict[str, int]:
        """Return the size of each value by its name."""
        if (sizes := await self._states.sizes(life)) is None:
            raise SessionEndedError
        return sizes

    async def set(self, life: Life, name: str, value: object) -> None:
        """Store a value."""
        stored = self._stored(life, name, self._limits.text_of(name, value))
        await self._until_made(Change(life, name, "set", _new_version(), stored))

    async def delete(self, life: Life, name: str) -> None:
        """Remove a value."""
        await self._until_made(Change(life, name, "delete", _new_version()))

    async def clear(self, life: Life) -> None:
        """Remove all values."""
        patience, deadline = Patience(self._patience), self._database.deadline()
        while (outcome := await self._clears.submit(life, deadline=deadline)) == "again":
            await self._give_way(patience, "again", "the state")
        if outcome != "done":
            raise SessionEndedError

    async def update(self, life: Life, name: str, function: Callable[[Any], Any]) -> Any:
        """Change a value by a function, and return the new one."""
        update = Update(life, name, function, contextvars.copy_context())
        patience, deadline = Patience(self._patience), self._database.deadline()
        batcher = self._updates
        while (updated := await batcher.submit(update, deadline=deadline)).outcome != "done":
            if updated.outcome == "apart":
                batcher = self._lone_updates
            elif updated.outcome in ("again", "lost"):
                await self._give_way(patience, updated.outcome, repr(name))
            else:
                self._limits.refuse(updated.outcome, name)
        return value_of(updated.text)

    async def close(self) -> None:
        """Answer the calls that were made, and take no more."""
        batchers: tuple[Batcher[Any, Any], ...] = (self._lists, self._clears, self._finds, self._changes)
        async with AsyncExitStack() as closing:  # the last of these goes first, for updates need the others yet
            for batcher in (*batchers, self._lone_updates, self._updates):
                closing.push_async_callback(batcher.close)

    async def _until_made(self, change: Change) -> None:
        patience, deadline, name = Patience(self._patience), self._database.deadline(), repr(change.name)
        while (outcome := await self._changes.submit(change, deadline=deadline)) != "done":
            if outcome != "again":
                self._limits.refuse(outcome, change.name)
            await self._give_way(patience, outcome, name)

    async def _give_way(self, patience: Patience, outcome: Outcome, name: str) -> None:
        """Pause before another attempt, or say why there is none: somebody else was first each time."""
        if not await patience.pause():
            changed = f"{name} was not changed: for {self._patience.total_seconds():g} s"
            if outcome == "again":
                raise DatabaseHeldError(f"{changed} another transaction has held the session's row")
            raise OverloadedError(f"{changed} others have changed it first, each time")

    async def _find_texts(self, names: Sequence[tuple[Life, str]]) -> Sequence[Found | Exception]:
        finding = [self._finds.submit(each, deadline=self._database.deadline()) for each in names]
        found = await gather(*finding, return_exceptions=True)
        return [self._found(*each, entry) for each, entry in zip(names, found, strict=True)]

    async def _swap(self, life: Life, name: str, text: str, expected: int | None) -> Outcome:
        stored = self._stored(life, name, text)
        change = Change(life, name, "swap", _new_version(), stored, expected)
        return await self._changes.submit(change, deadline=self._database.deadline())

    def _found(self, life: Life, name: str, entry: Entry | BaseException) -> Found | Exception:
        try:
            if isinstance(entry, BaseException):
                raise entry
            return Found(self._text_of(life, name, entry), entry.version)
        except McpSessionsError as error:
            return error

    def _stored(self, life: Life, name: str, text: str) -> Stored:
        value, key_id = self._sealer.seal(text, *place_of(life.digest, name))
        return Stored(value, key_id, len(text.encode()))

    def _text_of(self, life: Life, name: str, entry: Entry) -> str | None:
        if entry.value is None:
            return None
        return self._sealer.open(entry.value, entry.key_id, *place_of(life.digest, name))

    # What one batch does

    async def _find_all(self, names: Sequence[tuple[Life, str]]) -> Sequence[Entry | SessionEndedError]:
        places = {each: place for place, each in enumerate(dict.fromkeys(names))}
        found = await self._states.find(list(places))
        return [found.get(places[each]) or SessionEndedError() for each in names]

    async def _list_all(self, lives: Sequence[Life]) -> Sequence[dict[str, Entry] | SessionEndedError]:
        places = {each: place for place, each in enumerate(dict.fromkeys(lives))}
        found = await self._states.whole(list(places))
        return [found[places[each]] if places[each] in found else SessionEndedError() for each in lives]

    async def _clear_all(self, lives: Sequence[Life]) -> Sequence[Outcome]:
        outcomes = await self._states.clear(set(lives))
        return [outcomes[life] for life in lives]

    async def _change_all(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        waves = Waves(changes)
        while wave := waves.next():
            waves.settle(await self._states.change(wave))
        return waves.outcomes


def place_of(digest: bytes, name: str) -> tuple[str, bytes, str]:
    """Return where an entry is stored, as far as its seal is concerned."""
    return "session_state", digest, name


def _new_version() -> int:
    """Draw a version that no earlier value has had, as good as certainly."""
    return secrets.randbits(63)
