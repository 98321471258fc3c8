"""A kind of event more: an operator has read the values of a session's state.

The conditions on the trail's rows are widened. On SQLite, which can change no condition of a table, that is an edit of
the table's definition, as its documentation of ALTER TABLE has it for changes that touch no row: the trail is not
copied, however long it is.

Revision: 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KINDS = "kind IN ('created', 'terminated', 'revoked', 'expired', 'cleared', 'deleted', 'refused')"
FITS = "(kind = 'refused') = (is_end IS NULL) AND (is_end IS NULL OR is_end = (kind <> 'created'))"
WIDER = {
    "ck_session_events_kind": (KINDS, KINDS.replace("'refused'", "'refused', 'state_read'")),
    "ck_session_events_is_end_fits_the_kind": (
        FITS,
        FITS.replace("(kind = 'refused')", "(kind IN ('refused', 'state_read'))"),
    ),
}


def upgrade() -> None:
    """Allow such events."""
    replace_conditions({name: (old, new) for name, (old, new) in WIDER.items()})


def downgrade() -> None:
    """Remove such events, which the earlier schema cannot hold, and allow no more of them."""
    op.execute("DELETE FROM session_events WHERE kind = 'state_read'")
    replace_conditions({name: (new, old) for name, (old, new) in WIDER.items()})


def replace_conditions(changes: dict[str, tuple[str, str]]) -> None:
    """Put conditions of these names in the place of others."""
    if op.get_context().dialect.name == "sqlite":
        edit_definition(changes)
        return
    for name, (_, condition) in changes.items():
        op.drop_constraint(op.f(name), "session_events", type_="check")
        op.create_check_constraint(op.f(name), "session_events", sa.text(condition))


def edit_definition(changes: dict[str, tuple[str, str]]) -> None:
    """Edit the definition of the trail's table, and have every connection read it anew."""
    op.execute("PRAGMA writable_schema = ON")
    for name, (old, new) in changes.items():
        edited = "UPDATE sqlite_master SET sql = replace(sql, :old, :new) WHERE name = 'session_events'"
        op.execute(sa.text(edited).bindparams(old=f"{name} CHECK ({old})", new=f"{name} CHECK ({new})"))
    # A table that comes and goes gives the schema a new number, by which others notice.
    op.execute("CREATE TABLE session_events_changed (number INTEGER)")
    op.execute("DROP TABLE session_events_changed")
    op.execute("PRAGMA writable_schema = RESET")
