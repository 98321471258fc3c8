"""From a command's arguments to the manager and back: one event loop a command, one line an error."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from mcp_sessions.cli.exits import exit_code_of
from mcp_sessions.cli.output import say
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.errors import McpSessionsError
from mcp_sessions.manager import SessionManager
from mcp_sessions.settings import Settings, load_settings

T = TypeVar("T")


class CommandLine(TyperGroup):
    """The group of all commands: whichever fails, it ends with one line and the exit code of its error."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except McpSessionsError as error:
            say(f"Error: {error}")
            raise typer.Exit(exit_code_of(error)) from None


def settings_of(database_url: str | None, database_schema: str | None) -> Settings:
    """Return the settings of a command: no command but ``db upgrade`` creates or migrates a database."""
    return load_settings(database_url=database_url, database_schema=database_schema, auto_upgrade=False)


def database_of(settings: Settings) -> str:
    """Return the database for people to read, without its password."""
    return shown(parse_url(settings.database_url))


def with_manager(settings: Settings, work: Callable[[SessionManager], Awaitable[T]]) -> T:
    """Open a manager without a cleanup schedule, do the work, and close it."""

    async def opened() -> T:
        async with SessionManager.open_with(settings, scheduled_cleanup=False) as manager:
            return await work(manager)

    return asyncio.run(opened())
