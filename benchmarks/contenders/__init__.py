"""Who takes part. Importing one contender's module imports its library, so that others' processes do without it."""

from importlib import import_module

from benchmarks.contenders.base import Contender

_MODULES = {
    "Ours": "ours",
    "OursWithoutTrail": "ours",
    "Asyncpg": "drivers",
    "Aiosqlite": "drivers",
    "SqlAlchemy": "orm",
    "McpPersist": "peers",
    "KeyValueStore": "peers",
    "RedisEverySecond": "peers",
    "RedisAlways": "peers",
    "OurState": "our_state",
    "FastMcpOverPostgres": "fastmcp_state",
    "FastMcpOverRedis": "fastmcp_state",
    "FastMcpOverRedisAlways": "fastmcp_state",
}

ON_POSTGRES = ("Ours", "Asyncpg", "SqlAlchemy", "McpPersist", "KeyValueStore", "RedisEverySecond", "RedisAlways")
ON_SQLITE = ("Ours", "Aiosqlite", "SqlAlchemy", "McpPersist")
WITH_STATE = ("OurState", "FastMcpOverPostgres", "FastMcpOverRedis", "FastMcpOverRedisAlways")
CONTENDERS = frozenset(ON_POSTGRES + ON_SQLITE + WITH_STATE)


def contender(kind: str) -> type[Contender]:
    """Return the contender of this class name."""
    found: type[Contender] = getattr(import_module(f"{__name__}.{_MODULES[kind]}"), kind)
    return found
