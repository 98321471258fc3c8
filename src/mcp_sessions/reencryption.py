"""Going through all that is stored, once the keys were changed: what another key sealed, or none, is sealed anew.

Bounded batches, in the order of the primary keys; nothing is held between them. Workers may go on: what one of them
stores meanwhile is left as it is, for it was sealed with that worker's first key.
"""

from functools import partial

from mcp_sessions.cleanup.run import Progress
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.repositories.sealed import SEALABLE, Sealable, SealedRepository, SealedText
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.sealing import Sealer

BATCH = 200
"""The most texts of one batch: a text may have a megabyte."""


async def reencrypt(database: Backend, sealer: Sealer, progress: Progress | None = None) -> int:
    """Seal all that is stored with the first key, and return how many texts were not; ``progress`` is told so far.

    Raises:
        ConfigurationError: there are no keys.
        EncryptionError: a text was sealed with a key that is missing, or was changed; what was done before is done.
    """
    if sealer.key_id is None:
        raise ConfigurationError("encryption_keys (MCP_SESSIONS_ENCRYPTION_KEYS) must be set: its first key is to seal")
    count = 0
    for sealable in SEALABLE:
        repository, behind = SealedRepository(sealable), None
        while texts := await database.read(
            partial(repository.others, key_id=sealer.key_id, limit=BATCH, behind=behind)
        ):
            anew = [(each, *_sealed_anew(sealer, sealable, each)) for each in texts]
            await database.write(partial(repository.seal_anew, texts=anew), repeatable=True)
            behind = texts[-1]
            count += len(texts)
            if progress is not None:
                progress(count)
            await database.give_way()
    return count


def _sealed_anew(sealer: Sealer, sealable: Sealable, stored: SealedText) -> tuple[str, str | None]:
    place = (sealable.table.name, *stored.row)
    return sealer.seal(sealer.open(stored.text, stored.key_id, *place), *place)
