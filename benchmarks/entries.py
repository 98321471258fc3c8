"""Where contenders keep things: each gets a database of its own, on servers that run for as long as the contest."""

import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from rich.console import Console

from benchmarks.contest import Entry
from benchmarks.servers import redis_program, running_postgres, running_redis
from tests.support.postgres import PostgresServer

_IN_REDIS = {
    "RedisEverySecond": "everysec",
    "RedisAlways": "always",
    "FastMcpOverRedis": "everysec",
    "FastMcpOverRedisAlways": "always",
}
"""Those who keep things in Redis, and when that one has its log on the disk."""

_ON_POSTGRES_ALONE = {"FastMcpOverPostgres"}
"""Those who have no store of SQLite: they take part beside ours on SQLite, on their Postgres."""


class Places:
    """Makes the places that contenders need, on one engine; servers start as the first one needs them."""

    def __init__(self, engine: str, running: ExitStack, console: Console) -> None:
        self._engine = engine
        self._running = running
        self._console = console

    def entry(self, kind: str) -> Entry | None:
        """Return the entry of a contender; None, and a word to whoever reads along, where there is no server for it."""
        if kind in _IN_REDIS:
            return self._in_redis(kind)
        if self._engine == "postgres" or kind in _ON_POSTGRES_ALONE:
            self._postgres.create_database(kind.lower())
            return kind, self._postgres.url(kind.lower()), self._postgres.pid
        return kind, f"sqlite:///{self._folder}/{kind.lower()}.db", None

    def _in_redis(self, kind: str) -> Entry | None:
        program = redis_program()
        if program is None:
            self._console.print(
                f"{kind}: no redis-server on this machine (Debian and Ubuntu: apt-get install redis-server): skipped."
            )
            return None
        redis = self._running.enter_context(running_redis(program, _IN_REDIS[kind]))
        return kind, redis.url, redis.pid

    @cached_property
    def _postgres(self) -> PostgresServer:
        return self._running.enter_context(running_postgres())

    @cached_property
    def _folder(self) -> Path:
        return Path(self._running.enter_context(tempfile.TemporaryDirectory(prefix="sqlite-bench-")))
