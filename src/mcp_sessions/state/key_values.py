"""The key-value store: texts by collection and key, each for as long as whoever stored it said.

Only the digest of a key is stored: some servers use secrets for keys, such as the codes of an authorization. The
collection stands beside it for operators to read. Calls that are made at the same time share transactions.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from mcp_sessions.batching.batcher import Batcher, Item, Result
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories.key_values import Claim, KeyValueRepository, NewValue, StoredValue
from mcp_sessions.errors import DatabaseHeldError, DatabaseRefusedError
from mcp_sessions.sealing import Sealer
from mcp_sessions.settings import Settings

_LONGEST_NAME = 256
_NONE = timedelta(0)
"""How long a batch waits for rows that others hold: it is divided instead, so that whoever needs none goes on."""


class KeyValue(NamedTuple):
    """A text, and the seconds that it has left; None for ever."""

    text: str
    seconds_left: float | None


class KeyValues:
    """Texts by collection and key, in one database."""

    def __init__(self, database: Backend, settings: Settings, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._values = KeyValueRepository()
        alike: dict[str, Any] = {
            "max_batch": settings.max_batch,
            "max_queued": settings.max_queued,
            "instruments": database.instruments,
            "divisible": (DatabaseRefusedError, DatabaseHeldError),
        }
        self._finds: Batcher[bytes, StoredValue | None] = Batcher(self._find_all, name="key-value get", **alike)
        self._deletes: Batcher[frozenset[bytes], set[bytes]] = Batcher(
            self._delete_all, name="key-value delete", **alike
        )
        self._claims: Batcher[Claim, bool] = Batcher(self._claim_all, name="key-value claim", **alike)
        self._puts: Batcher[NewValue, None] = Batcher(self._put_all, name="key-value put", **alike)

    async def get(self, collection: str, key: str) -> KeyValue | None:
        """Return the text of a key; None where there is none, or its time is over.

        Raises:
            EncryptionError: it is sealed, and its key is missing or it was changed.
        """
        digest = _digest_of(collection, key)
        if (stored := await self._finds.submit(digest, deadline=self._database.deadline())) is None:
            return None
        return KeyValue(self._sealer.open(stored.value, stored.key_id, *_place_of(digest)), stored.seconds_left)

    async def put(self, collection: str, key: str, text: str, *, seconds: float | None) -> None:
        """Store a text for so many seconds, None for ever, whatever was there."""
        digest = _digest_of(collection, key)
        value, key_id = self._sealer.seal(text, *_place_of(digest))
        lifetime = None if seconds is None else timedelta(seconds=seconds)
        new = NewValue(digest, _shown(collection), value, key_id, lifetime)
        await self._alone_if_held(self._puts, new, self._put_all)

    async def claim(self, collection: str, key: str, *, lifetime: timedelta) -> bool:
        """Take a key for so long, and tell whether nobody had it: of all callers on all workers, one is told so."""
        claim = Claim(_digest_of(collection, key), _shown(collection), lifetime)
        return await self._alone_if_held(self._claims, claim, self._claim_all)

    async def delete(self, collection: str, keys: Sequence[str]) -> int:
        """Remove the texts of these keys, and return how many were there."""
        digests = frozenset(_digest_of(collection, key) for key in keys)
        deleted = await self._alone_if_held(self._deletes, digests, self._delete_all)
        return len(deleted)

    async def close(self) -> None:
        """Answer the calls that were made, and take no more."""
        async with AsyncExitStack() as closing:  # where one is cancelled, the others close all the same
            for batcher in (self._finds, self._puts, self._deletes, self._claims):
                closing.push_async_callback(batcher.close)

    async def _alone_if_held(
        self, batcher: Batcher[Item, Result], item: Item, run: Callable[..., Awaitable[Sequence[Result]]]
    ) -> Result:
        """Return what a call brings that is joined with others, unless it has to wait for a row: it does so alone."""
        try:
            return await batcher.submit(item, deadline=self._database.deadline())
        except DatabaseHeldError:
            (result,) = await run([item], lock_patience=None)
            return result

    async def _find_all(self, digests: Sequence[bytes]) -> Sequence[StoredValue | None]:
        found = await self._database.read(partial(self._values.find, digests=set(digests)))
        return [found.get(digest) for digest in digests]

    async def _delete_all(
        self, wanted: Sequence[frozenset[bytes]], lock_patience: timedelta | None = _NONE
    ) -> Sequence[set[bytes]]:
        every = frozenset().union(*wanted)
        left = await self._database.write(partial(self._values.delete, digests=every), lock_patience=lock_patience)
        deleted = []
        for digests in wanted:  # of several who delete one, the first did
            deleted.append(left & digests)
            left = left - digests
        return deleted

    async def _claim_all(self, claims: Sequence[Claim], lock_patience: timedelta | None = _NONE) -> Sequence[bool]:
        return await self._database.write(partial(self._values.claim, claims=claims), lock_patience=lock_patience)

    async def _put_all(self, values: Sequence[NewValue], lock_patience: timedelta | None = _NONE) -> Sequence[None]:
        last_of_each = list({each.key_digest: each for each in values}.values())
        put = partial(self._values.put, values=last_of_each)
        await self._database.write(put, repeatable=True, lock_patience=lock_patience)
        return [None] * len(values)


def _digest_of(collection: str, key: str) -> bytes:
    return hashlib.sha256(json.dumps([collection, key]).encode()).digest()


def _place_of(digest: bytes) -> tuple[str, bytes]:
    """Where a text is stored, as far as its seal is concerned."""
    return "key_values", digest


def _shown(collection: str) -> str:
    """Return as much of a collection's name as operators need, without what no database stores."""
    return "".join(each if each.isprintable() else "?" for each in collection[:_LONGEST_NAME])
