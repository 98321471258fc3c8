"""Exit codes, and which error ends in which."""

from enum import IntEnum

from mcp_sessions.errors import ConfigurationError, InvalidInputError, McpSessionsError, SchemaRevisionError
from mcp_sessions.examples.demo import DemoFailedError


class ExitCode(IntEnum):
    """What a script learns from how a command ended; part of the interface, see ``docs/reference/cli.md``."""

    OK = 0
    NOTHING = 1
    FAILED = 1
    USAGE = 2
    DATABASE = 3
    SCHEMA = 4
    OUTPUT = 5
    READER_GONE = 141


EXIT_CODES = """Exit codes:

- 0: done
- 1: no such session, a question answered with no, a server that did not start, a demo that failed
- 2: wrong arguments or settings; nothing was done
- 3: the database failed, or could not be reached
- 4: the database is at another schema revision than the one needed, or its tables differ
- 5: what was to be printed could not be written, for instance since the disk is full
"""


class NoSuchSessionError(McpSessionsError):
    """No live session is meant by what the command was given."""


def exit_code_of(error: McpSessionsError) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    match error:
        case NoSuchSessionError():
            return ExitCode.NOTHING
        case DemoFailedError():
            return ExitCode.FAILED
        case InvalidInputError() | ConfigurationError():
            return ExitCode.USAGE
        case SchemaRevisionError():
            return ExitCode.SCHEMA
        case _:
            return ExitCode.DATABASE
