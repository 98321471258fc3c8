"""The repository of what may be sealed: found by its key, and stored under another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.statements import sealed as statements
from mcp_sessions.db.statements.sealed import SEALABLE, Sealable

__all__ = ["SEALABLE", "Sealable", "SealedRepository", "SealedText"]


class SealedText(NamedTuple):
    """A text as it is stored, and what names its row."""

    row: tuple[str | bytes, ...]
    text: str
    key_id: str | None


class SealedRepository:
    """Rows of one table with text that may be sealed."""

    def __init__(self, sealable: Sealable) -> None:
        self._sealable = sealable

    def others(
        self, connection: Connection, key_id: str, *, limit: int, behind: SealedText | None
    ) -> Sequence[SealedText]:
        """Return at most ``limit`` texts that are not sealed with this key, behind the given one."""
        parameters: dict[str, Any] = {"key_id": key_id, "limit": limit}
        if behind is not None:
            parameters |= self._named("behind", behind)
        page = connection.execute(statements.page_of_others(self._sealable, continued=behind is not None), parameters)
        return [SealedText(tuple(row), text, key) for *row, text, key in page]

    def seal_anew(self, connection: Connection, texts: Sequence[tuple[SealedText, str, str | None]]) -> None:
        """Store texts, each with another text and key in its place; one that was changed since stays as it is."""
        rows = [
            self._named("row", old)
            | {"old_text": old.text, "old_key_id": old.key_id, "new_text": text, "new_key_id": key_id}
            for old, text, key_id in texts
        ]
        connection.execute(statements.seal_anew(self._sealable), rows)

    def _named(self, prefix: str, text: SealedText) -> dict[str, Any]:
        return {f"{prefix}_{name}": part for name, part in zip(self._sealable.names, text.row, strict=True)}
