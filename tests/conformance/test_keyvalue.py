"""``SqlStore`` by the contract of py-key-value: what its stores have to do, on both engines."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from key_value.aio.errors import InvalidTTLError, SerializationError
from key_value.aio.protocols.key_value import AsyncKeyValueProtocol

from mcp_sessions import ConfigurationError, EncryptionError, InvalidInputError, SessionManager
from mcp_sessions.keyvalue import SqlStore
from tests.support.concurrency import together
from tests.support.managers import OpenManager
from tests.support.rows import Rows

VALUES: list[dict[str, Any]] = [
    {},
    {"text": "a\x00\u2028 \U0001f34e '; DROP TABLE key_values; --", "none": None, "yes": True},
    {"nested": {"list": [1, 2.5, -3, {"": []}], "big": 2**70}, "surrogate": "\ud800"},
    {"large": ["x" * 1000] * 1000},
]

NAMES = ["test", "a:b", "a" * 5000, "!@#$%^&*() \x00\n\ud800", "", "Ä", "ä"]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SqlStore]:
    """A store that opens a manager of its own."""
    async with SqlStore(database_url=database_url) as store:
        yield store


async def test_it_is_a_store(store: SqlStore) -> None:
    """It has the protocol; nothing is there before something is stored."""
    assert isinstance(store, AsyncKeyValueProtocol)
    assert await store.get("test") is None
    assert await store.ttl("test") == (None, None)
    assert await store.get_many(["a", "b"]) == [None, None]
    assert await store.ttl_many(["a"]) == [(None, None)]
    assert await store.delete("test") is False
    assert await store.delete_many(["a", "b"]) == 0
    assert await store.get_many([]) == []
    assert await store.delete_many([]) == 0


async def test_values_come_back(store: SqlStore) -> None:
    """JSON objects of any kind and size come back as they were, and a later one replaces an earlier one."""
    for value in VALUES:
        await store.put("test", value, collection="of tests")
        assert await store.get("test", collection="of tests") == value
    assert await store.get("test") is None
    await store.put_many([str(n) for n in range(len(VALUES))], VALUES)
    assert await store.get_many([*(str(n) for n in range(len(VALUES))), "none"]) == [*VALUES, None]


async def test_names_are_of_any_kind(store: SqlStore) -> None:
    """Collections and keys are of any length and hold any character, and none is taken for another."""
    places = [(collection or "x", key) for collection in NAMES for key in NAMES]
    await together(*(store.put(key, {"n": n}, collection=place) for n, (place, key) in enumerate(places)))
    found = await together(*(store.get(key, collection=place) for place, key in places))
    assert found == [{"n": n} for n in range(len(places))]
    await store.put("b:c", {}, collection="a")
    assert await store.get("c", collection="a:b") is None


async def test_what_is_no_json_is_refused(store: SqlStore) -> None:
    """What cannot be serialized is the protocol's error, and nothing of the same call is stored."""
    for bad in (object(), {1, 2}, b"bytes"):
        with pytest.raises(SerializationError):
            await store.put("test", {"bad": bad})
        with pytest.raises(SerializationError):
            await store.put_many(["good", "bad"], [{}, {"bad": bad}])
    assert await store.get_many(["test", "good", "bad"]) == [None] * 3


async def test_deleting(store: SqlStore) -> None:
    """A deletion says how many were there."""
    await store.put_many(["a", "b", "c"], [{"n": n} for n in range(3)])
    assert await store.delete("a") is True
    assert await store.delete("a") is False
    assert await store.delete_many(["a", "b", "c", "c"]) == 2
    assert await store.get_many(["a", "b", "c"]) == [None] * 3


async def test_times_to_live(store: SqlStore, rows: Rows) -> None:
    """A value stays for its TTL by the database's clock, and is gone from then on, swept or not."""
    await store.put("short", {"n": 1}, ttl=100)
    await store.put("long", {"n": 2})
    value, left = await store.ttl("short")
    assert value == {"n": 1}
    assert left is not None
    assert 90 < left <= 100
    assert await store.ttl("long") == ({"n": 2}, None)
    for bad in (-1, 0):
        with pytest.raises(InvalidTTLError):
            await store.put("short", {}, ttl=bad)
    await expire(rows)
    assert await store.get_many(["short", "long"]) == [None, {"n": 2}]
    assert await store.delete("short") is False
    await store.put("long", {"n": 3}, ttl=100)
    await store.put("long", {"n": 4})
    assert await store.ttl("long") == ({"n": 4}, None)


async def expire(rows: Rows) -> None:
    """Let the time of every value be over that has one."""
    past = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 seconds')" if rows.on_sqlite else "now() - interval '1 second'"
    await rows.execute(f"UPDATE key_values SET expires_at = {past} WHERE expires_at IS NOT NULL")


async def test_the_cleanup_removes_what_has_expired(open_manager: OpenManager, rows: Rows) -> None:
    """A cleanup run removes expired values, in batches, and leaves the others."""
    manager = await open_manager(cleanup_batch_size=10)
    store = SqlStore(manager)
    await store.put_many([f"old {n}" for n in range(25)], [{}] * 25, ttl=60)
    await expire(rows)
    await store.put("new", {}, ttl=60)
    await store.put("for ever", {})
    assert await rows.count("key_values") == 27
    assert await manager.cleanup_stale_sessions() == 0
    assert await rows.count("key_values") == 2
    assert await store.get_many(["new", "for ever"]) == [{}, {}]


async def test_workers_share_a_store(open_manager: OpenManager, database_url: str) -> None:
    """What one worker stores another one finds; and a store that is opened later."""
    one, other = SqlStore(await open_manager()), SqlStore(await open_manager())
    await together(*(one.put(f"key {n}", {"n": n}) for n in range(50)))
    assert await other.get_many([f"key {n}" for n in range(50)]) == [{"n": n} for n in range(50)]
    async with SqlStore(database_url=database_url) as later:
        assert await later.get("key 7") == {"n": 7}


async def test_a_manager_that_was_given_stays_open(manager: SessionManager) -> None:
    """Closing a store closes a manager of its own, and no other."""
    async with SqlStore(manager) as store:
        await store.put("a", {})
    assert await store.get("a") == {}


def test_a_store_is_made_without_a_loop_and_used_in_several(database_url: str) -> None:
    """A store that is made at import opens at its first use, and again in another event loop."""
    store = SqlStore(database_url=database_url)

    async def used(n: int) -> Any:
        await store.put(f"in loop {n}", {"n": n})
        found = await store.get_many(["in loop 0", f"in loop {n}"])
        await store.close()
        return found

    assert [asyncio.run(used(n)) for n in range(2)] == [[{"n": 0}, {"n": 0}], [{"n": 0}, {"n": 1}]]


async def test_settings_of_a_store(manager: SessionManager) -> None:
    """Wrong settings are named when the store is made; a manager and settings together make no sense."""
    with pytest.raises(ConfigurationError, match="pool_size"):
        SqlStore(database_url="sqlite:///x.db", pool_size=0)
    with pytest.raises(InvalidInputError, match="not both"):
        SqlStore(manager, database_url="sqlite:///x.db")


async def test_values_are_sealed(open_manager: OpenManager, rows: Rows) -> None:
    """With keys, values are sealed at their place, and keys are never stored; without the key, reading is an error."""
    key = base64.b64encode(bytes(32)).decode()
    store = SqlStore(await open_manager(encryption_keys=key))
    await store.put("an authorization code", {"secret": "of a customer"}, collection="codes")
    await store.put("another", {"secret": "of another"}, collection="codes")
    stored = repr(await rows.fetch("SELECT * FROM key_values"))
    assert "customer" not in stored
    assert "authorization" not in stored
    assert "codes" in stored
    assert await store.get("another", collection="codes") == {"secret": "of another"}
    plain = SqlStore(await open_manager())
    with pytest.raises(EncryptionError, match="is not among encryption_keys"):
        await plain.get("another", collection="codes")
    await rows.execute("UPDATE key_values SET value = (SELECT max(value) FROM key_values)")
    answers = await asyncio.gather(
        *(store.get(each, collection="codes") for each in ("another", "an authorization code")), return_exceptions=True
    )
    assert [type(each) for each in answers].count(EncryptionError) == 1


async def test_calls_at_once(store: SqlStore) -> None:
    """Callers who put, get and delete at the same time each find their own."""

    async def caller(name: str) -> None:
        for n in range(3):
            key = f"{name} {n}"
            assert await store.get(key) is None
            for value in ({"n": n}, {"n": -n}):
                await store.put(key, value)
                assert await store.get(key) == value
            assert await store.delete(key)
            assert await store.get(key) is None

    await together(*(caller(f"caller {n}") for n in range(10)))
