"""Every statement on what may be sealed, whichever table it is in: its text is one column, its key another."""

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, Table, Update, bindparam, select, tuple_, update

from mcp_sessions.db.tables import client_settings, key_values, session_handshakes, session_state


class Sealable(NamedTuple):
    """A table with a column of text that may be sealed."""

    table: Table
    text: str

    @property
    def names(self) -> list[str]:
        """The columns that name a row, and its place where seals are concerned."""
        return [column.name for column in self.table.primary_key.columns]


SEALABLE = (
    Sealable(session_handshakes, "initialize"),
    Sealable(client_settings, "settings"),
    Sealable(session_state, "value"),
    Sealable(key_values, "value"),
)
"""All there are."""


@cache
def page_of_others(sealable: Sealable, *, continued: bool) -> Select[Any]:
    """Read at most ``limit`` rows that another key sealed than ``key_id``, or none; ``continued``: behind a row."""
    columns = sealable.table.c
    place = tuple_(*(columns[name] for name in sealable.names))
    page = select(*(columns[name] for name in sealable.names), columns[sealable.text], columns.key_id).where(
        columns.key_id.is_distinct_from(bindparam("key_id"))
    )
    if continued:
        behind = (bindparam(f"behind_{name}", type_=columns[name].type) for name in sealable.names)
        page = page.where(place > tuple_(*behind))
    return page.order_by(*(columns[name] for name in sealable.names)).limit(bindparam("limit"))


@cache
def seal_anew(sealable: Sealable) -> Update:
    """Store the text of a row sealed with another key, unless it was changed since it was read."""
    columns = sealable.table.c
    return (
        update(sealable.table)
        .where(
            *(columns[name] == bindparam(f"row_{name}", type_=columns[name].type) for name in sealable.names),
            columns[sealable.text] == bindparam("old_text"),
            columns.key_id.is_not_distinct_from(bindparam("old_key_id", type_=columns.key_id.type)),
        )
        .values({sealable.text: bindparam("new_text"), "key_id": bindparam("new_key_id")})
    )
