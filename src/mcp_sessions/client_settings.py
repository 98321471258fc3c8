"""What clients set for their sessions and every worker keeps to: JSON by names, under one version.

The version stands in the row of the session, so that whoever reads that knows, at no cost, whether what it knows of the
settings still holds. Read, change and write are one atomic step by it, tried again where another was first.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import MappingProxyType

from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories.client_settings import ClientSettingsRepository, StoredSettings
from mcp_sessions.errors import DatabaseHeldError, DatabaseUnavailableError
from mcp_sessions.patience import Patience
from mcp_sessions.sealing import Sealer

_VERSION_BITS = 62

Values = Mapping[str, str]
"""What is set, by names; the order is that in which it was set first."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a client has set for its session; ``version`` is 0 where that is nothing, and else drawn anew each time."""

    version: int = 0
    values: Values = field(default_factory=lambda: MappingProxyType({}))


class ClientSettingsStore:
    """Reads and changes the settings of sessions, in one database."""

    def __init__(self, database: Backend, sealer: Sealer, patience: timedelta) -> None:
        self._database = database
        self._sealer = sealer
        self._patience = patience
        self._settings = ClientSettingsRepository()

    async def get(self, digest: bytes) -> ClientSettings | None:
        """Return the settings of a session; None where it is not live."""
        stored = await self._database.read(partial(self._settings.find, digest=digest))
        if stored is None or stored.text is None:
            return None if stored is None else ClientSettings(stored.version)
        text = self._sealer.open(stored.text, stored.key_id, *_place_of(digest))
        return ClientSettings(stored.version, json.loads(text))

    async def change(self, digest: bytes, change: Callable[[Values], Values]) -> ClientSettings | None:
        """Replace the settings by what ``change`` makes of them, which may run several times.

        Returns them, with a new version where anything is another; None where the session is not live.

        Raises:
            DatabaseHeldError: another transaction has held the session's row for longer than a call can wait.
        """
        try:
            async with asyncio.timeout_at(self._database.deadline()):
                return await self._changed(digest, change)
        except TimeoutError:
            raise DatabaseUnavailableError(
                "no answer in time: whether the settings of a session were changed is unknown"
            ) from None

    async def _changed(self, digest: bytes, change: Callable[[Values], Values]) -> ClientSettings | None:
        patience = Patience(self._patience)
        while True:
            before = await self.get(digest)
            if before is None:
                return None
            values = change(before.values)
            if values == before.values:
                return before
            after = ClientSettings(1 + secrets.randbits(_VERSION_BITS), values)
            text, key_id = self._sealer.seal(json.dumps(dict(after.values)), *_place_of(digest))
            new = StoredSettings(after.version, key_id, text)
            replace = partial(self._settings.replace, digest=digest, new=new, read_version=before.version)
            if await self._database.write(replace):
                return after
            if not await patience.pause():
                held = f"for {self._patience.total_seconds():g} s others have held the session's row, or were first"
                raise DatabaseHeldError(f"the settings of a session were not changed: {held}")


def _place_of(digest: bytes) -> tuple[str, bytes]:
    """Where settings are stored, as far as their seal is concerned."""
    return "client_settings", digest
