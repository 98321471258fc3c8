"""The one place where the tests' fixtures meet the project's migrations."""

from mcp_sessions.db.schema.revisions import upgrade
from mcp_sessions.settings import Settings
from tests.support.loops import run_apart


def migrate(url: str) -> None:
    """Bring the database at a URL to the newest revision, and leave no connection to it."""
    run_apart(upgrade(Settings(database_url=url)))
