"""Every error that this package raises, under one root.

An absent session is never an error: methods answer ``None``, ``False`` or ``0``. Errors are for bad input, for
settings that make no sense and for faults of the database. A fault is never reported as "no such session", because
a client that is told so has to throw its session away.
"""


class McpSessionsError(Exception):
    """Root of all errors of mcp-sessions."""


class InvalidInputError(McpSessionsError, ValueError):
    """An argument cannot be right on any database; nothing was read or written."""


class InvalidSessionIdError(InvalidInputError):
    """A session id is not 1 to 256 visible ASCII characters. The message never repeats the id."""


class InvalidOwnerError(InvalidInputError):
    """A tenant, client, issuer or subject is not text that both databases can store."""


class ConfigurationError(McpSessionsError, ValueError):
    """A setting makes no sense; the message names the setting and what would be right."""


class SessionExistsError(McpSessionsError):
    """The session id given to ``create_session`` is taken, by a live session or by one that is not swept yet."""

    def __init__(self) -> None:
        super().__init__("a session with this id exists already; nothing was overwritten: use another id, or none")


class SessionEndedError(McpSessionsError):
    """State was asked of a session that is not live any more, or is another owner's: those are one answer."""

    def __init__(self) -> None:
        super().__init__(
            "there is no such session any more, or it is another owner's: its state was neither read nor changed. "
            "Resume the session, and ask for the state of what that returns"
        )


class StateLimitError(McpSessionsError):
    """More state than a session may have; nothing was changed, and the message names the setting that says so."""


class EncryptionError(McpSessionsError):
    """What is stored sealed cannot be opened: its key is missing, which is named, or it was changed or moved."""


class DatabaseError(McpSessionsError):
    """The database refused or failed; whether the session exists is not known."""


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached or did not answer in time; the same call may succeed later."""


class DatabaseHeldError(DatabaseUnavailableError):
    """Another transaction holds what this call needs, for longer than it can wait; nothing was changed."""


class DatabaseRefusedError(DatabaseError):
    """The database refused the values of this call, and would again; nothing was changed."""


class SchemaRevisionError(McpSessionsError):
    """The database is not at the schema revision that this version of the package was built for."""


class OverloadedError(McpSessionsError):
    """Too many calls are waiting for the database already; this one was turned away before it did anything."""


class ManagerClosedError(McpSessionsError):
    """The manager was closed: use it inside ``async with SessionManager.open(...)``."""


class ManagerElsewhereError(McpSessionsError, RuntimeError):
    """The manager belongs to another event loop, thread or process than the one that uses it; nothing was done."""
