"""From a command's arguments to the manager and back: one event loop a command, one line an error.

What knows the database is imported as a command runs, here and in all of the command line: it takes a second, which
nobody waits for who asks for help or has a shell complete a word.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperGroup

from mcp_sessions.cli.exit_codes import ExitCode, exit_code_of
from mcp_sessions.cli.output import say
from mcp_sessions.errors import McpSessionsError

if TYPE_CHECKING:
    from mcp_sessions.manager import SessionManager
    from mcp_sessions.settings import Settings

T = TypeVar("T")


class CommandLine(TyperGroup):
    """The group of all commands: whichever fails, it ends with one line and the exit code of its error."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the options in front of the command; some of them print."""
        with _errors_as_exit_codes():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with _errors_as_exit_codes():
            return super().invoke(ctx)


@contextmanager
def _errors_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except McpSessionsError as error:
        say(f"Error: {error}")
        raise typer.Exit(exit_code_of(error)) from None
    except BrokenPipeError:
        _leave_stdout()
        raise typer.Exit(ExitCode.READER_GONE) from None
    except OSError as error:
        _leave_stdout()
        with suppress(OSError):  # standard error may be on the same full disk
            say(f"Error: what was to be printed could not be written: {error.strerror or error}")
        raise typer.Exit(ExitCode.OUTPUT) from None


def _leave_stdout() -> None:
    """Have what is left in the buffer go nowhere, or Python would try to write it once more, and fail, at the end."""
    if sys.stdout is None:
        return
    with suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def settings_of(database_url: str | None, database_schema: str | None) -> "Settings":
    """Return the settings of a command: no command but ``db upgrade`` creates or migrates a database."""
    from mcp_sessions.settings import load_settings

    return load_settings(database_url=database_url, database_schema=database_schema, auto_upgrade=False)


def database_of(settings: "Settings") -> str:
    """Return the database for people to read, without its password."""
    from mcp_sessions.db.urls import parse_url, shown

    return shown(parse_url(settings.database_url))


def with_manager(settings: "Settings", work: "Callable[[SessionManager], Awaitable[T]]") -> T:
    """Open a manager without a cleanup schedule, do the work, and close it."""
    from mcp_sessions.manager import SessionManager

    async def opened() -> T:
        async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
            return await work(manager)

    return asyncio.run(opened())
