"""The smallest question to a database: does it answer in time, and at the revision that this package needs?"""

import asyncio
from datetime import timedelta

from mcp_sessions.db.schema.revisions import require_revision
from mcp_sessions.db.urls import parse_url, shown
from mcp_sessions.errors import DatabaseUnavailableError
from mcp_sessions.settings import Settings


async def ping(settings: Settings, patience: timedelta) -> timedelta:
    """Return how long a database took to connect and to tell its revision; changes nothing.

    Raises:
        DatabaseUnavailableError: it did not answer within ``patience``.
        DatabaseError: it could not be asked.
        SchemaRevisionError: it is at another revision than the one needed, or its file does not exist.
    """
    bounds = {
        name: min(getattr(settings, name), patience)
        for name in ("connect_timeout", "statement_timeout", "sqlite_busy_timeout")
    }
    bounded = settings.model_copy(update={**bounds, "auto_upgrade": False})
    clock = asyncio.get_running_loop()
    began = clock.time()
    asking = asyncio.ensure_future(require_revision(bounded))
    done, _ = await asyncio.wait([asking], timeout=patience.total_seconds())
    if not done:
        asking.cancel()  # which waits for the bounds above
        await asyncio.wait([asking])
        url = shown(parse_url(settings.database_url))
        raise DatabaseUnavailableError(f"the database {url} is not available: no answer within {patience}")
    asking.result()
    return timedelta(seconds=clock.time() - began)
