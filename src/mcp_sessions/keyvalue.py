"""A store for what FastMCP and others keep by the protocol of py-key-value: in SQL, on every worker, swept.

It takes the extra ``keyvalue``. What ``ctx.set_state`` of FastMCP stores is keyed by the app's own session id, which is
another one on each worker that restores a session: while a request of a durable session is served, such a key is taken
for the durable session's.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from key_value.aio.stores.base import BaseContextManagerStore, ManagedEntry
from typing_extensions import override

from mcp_sessions.current import current
from mcp_sessions.errors import InvalidInputError
from mcp_sessions.manager import SessionManager
from mcp_sessions.settings import SettingsByName, load_settings
from mcp_sessions.state import KeyValues

__all__ = ["SqlStore"]


class SqlStore(BaseContextManagerStore):
    """An ``AsyncKeyValue`` in the database of a deployment's sessions, or in any other.

    Values are JSON objects, and stay for their TTL by the database's clock, or until they are deleted.
    """

    def __init__(
        self,
        sessions: SessionManager | None = None,
        *,
        database_url: str | None = None,
        default_collection: str | None = None,
        **settings: Unpack[SettingsByName],
    ) -> None:
        """Make a store; nothing is opened before its first use.

        Args:
            sessions: a manager that is open as long as the store is used, and is not closed by it.
            database_url: without a manager, where the store opens one of its own, as ``SessionManager.open`` does.
            default_collection: the collection of calls that name none.
            settings: further settings of the store's own manager.

        Raises:
            ConfigurationError: a setting makes no sense; it is named.
            InvalidInputError: a manager was given, and settings too.
        """
        if sessions is not None and (database_url is not None or settings):
            raise InvalidInputError("give SqlStore a manager or the settings of one, not both")
        self._given = sessions
        self._settings = None if sessions is not None else load_settings(database_url=database_url, **settings)
        self._opened: tuple[asyncio.AbstractEventLoop, SessionManager] | None = None
        self._opening = asyncio.Lock()
        super().__init__(
            client_provided_by_user=sessions is not None, default_collection=default_collection, stable_api=True
        )

    @override
    async def _setup(self) -> None:
        await self._values()

    async def _values(self) -> KeyValues:
        if self._given is not None:
            return self._given.key_values
        loop = asyncio.get_running_loop()
        if self._opened is None or self._opened[0] is not loop:
            async with self._opening:
                await self._open(loop)
        assert self._opened is not None  # noqa: S101 - it was opened just now
        return self._opened[1].key_values

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if (self._opened is None or self._opened[0] is not loop) and self._settings is not None:
            if self._opened is not None:  # in a loop that is over, where nothing of it can be closed any more
                self._exit_stack, self._exit_stack_entered = AsyncExitStack(), False
            await self._ensure_exit_stack_entered()
            manager = await self._exit_stack.enter_async_context(SessionManager.open_with(self._settings))
            self._exit_stack.callback(self._forget)
            self._opened = loop, manager

    def _forget(self) -> None:
        self._opened = None

    @override
    async def _get_managed_entry(self, *, collection: str, key: str) -> ManagedEntry | None:
        values = await self._values()
        for name in _names_of(key):
            if (found := await values.get(collection, name)) is not None:
                expires_at = None
                if found.seconds_left is not None:
                    expires_at = datetime.now(UTC) + timedelta(seconds=found.seconds_left)
                return ManagedEntry(value=json.loads(found.text), expires_at=expires_at)
        return None

    @override
    async def _get_managed_entries(self, *, collection: str, keys: Sequence[str]) -> list[ManagedEntry | None]:
        entries = (self._get_managed_entry(collection=collection, key=key) for key in keys)
        return list(await asyncio.gather(*entries))

    @override
    async def _put_managed_entry(self, *, collection: str, key: str, managed_entry: ManagedEntry) -> None:
        values = await self._values()
        await values.put(collection, _names_of(key)[0], managed_entry.value_as_json, seconds=managed_entry.ttl)

    @override
    async def _put_managed_entries(
        self, *, collection: str, keys: Sequence[str], managed_entries: Sequence[ManagedEntry], **_: Any
    ) -> None:
        for entry in managed_entries:
            entry.value_as_json  # noqa: B018 - what cannot be stored keeps the others from being stored, too
        puts = (
            self._put_managed_entry(collection=collection, key=key, managed_entry=entry)
            for key, entry in zip(keys, managed_entries, strict=True)
        )
        await asyncio.gather(*puts)

    @override
    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        return await self._delete_managed_entries(keys=[key], collection=collection) > 0

    @override
    async def _delete_managed_entries(self, *, keys: Sequence[str], collection: str) -> int:
        values = await self._values()
        deleted = await values.delete(collection, [_names_of(key)[0] for key in keys])
        if others := [name for key in keys for name in _names_of(key)[1:]]:
            deleted += await values.delete(collection, others)
        return deleted


def _names_of(key: str) -> list[str]:
    """Return the names that a key may have here: first the one to store by.

    What an app stores in the middle of a handshake, before its own session has an id that is known, has its own key.
    """
    serving = current()
    if serving is None or not key.startswith(f"{serving.app_session_id}:"):
        return [key]
    session = serving.session
    life = f"{session.digest.hex()} {session.created_at.isoformat()}"
    return [f"session {life}:{key.removeprefix(f'{serving.app_session_id}:')}", key]
