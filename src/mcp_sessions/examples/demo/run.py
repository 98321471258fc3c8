"""Run the demo: its database, its workers, and what becomes of them when it ends, however it ends."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import typer

from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.examples.demo import DemoFailedError
from mcp_sessions.examples.demo.report import Report
from mcp_sessions.examples.demo.scenario import Scenario
from mcp_sessions.examples.demo.workers import Workers, workers_with
from mcp_sessions.manager import SessionManager
from mcp_sessions.settings import Settings, load_settings

_LONGEST_SECONDS = 120


def run(database_url: str | None, database_schema: str | None) -> None:
    """Run the demo; whatever ends it, its processes and files go with it.

    Raises:
        DemoFailedError: a step failed.
        SchemaRevisionError: the database that was named has to be migrated first.
        DatabaseError: that database could not be opened.
    """
    with tempfile.TemporaryDirectory(prefix="mcp-sessions-demo-") as folder:
        url = database_url or f"sqlite:///{folder}/sessions.db"
        settings = load_settings(database_url=url, database_schema=database_schema)
        try:
            asyncio.run(_until_told_to_stop(settings, Path(folder)))
        except asyncio.CancelledError:
            raise typer.Exit(128 + signal.SIGTERM) from None


async def _until_told_to_stop(settings: Settings, folder: Path) -> None:
    playing = asyncio.create_task(_play(settings, folder))
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    await playing


async def _play(settings: Settings, folder: Path) -> None:
    report = Report()
    for_workers = {
        "MCP_SESSIONS_DATABASE_URL": settings.database_url,
        "MCP_SESSIONS_TOUCH_INTERVAL": "0s",  # so that every use shows
    }
    if settings.database_schema is not None:
        for_workers["MCP_SESSIONS_DATABASE_SCHEMA"] = settings.database_schema
    async with (
        SessionManager.open_with(settings, scheduled_cleanup=False) as sessions,
        workers_with(for_workers, folder / "log") as workers,
        _failing_in_words(report, workers),
        asyncio.timeout(_LONGEST_SECONDS),
    ):
        report.say(f"Two workers, one database: {shown(parse_url(settings.database_url))}")
        await Scenario(report, sessions, workers).play()


@contextlib.asynccontextmanager
async def _failing_in_words(report: Report, workers: Workers) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, it is the demo that failed
        report.say(workers.log.read_text(errors="replace"))
        if isinstance(error, DemoFailedError):
            raise
        raise DemoFailedError(f"the demo failed: {error!r}") from error
