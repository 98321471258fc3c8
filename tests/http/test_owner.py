"""A session belongs to the principal that opened it, as a whole; the app authenticates inside, as the SDKs do."""

from datetime import timedelta

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.digests import digest_of
from mcp_sessions.records.sessions import Owner
from tests.http.conftest import StartWorker
from tests.support.ageing import age
from tests.support.mcp_client import INITIALIZE, RawClient, call
from tests.support.mcp_servers import ISSUER, PRINCIPALS

VERBS = ["POST", "GET", "DELETE"]
ADD = call("add", a=1, b=2)
STRANGERS = sorted(set(PRINCIPALS) - {"alice", "alice-rotated", "no-scope"})
MISMATCHES = [*(("alice", stranger) for stranger in (*STRANGERS, "nobody")), ("nobody", "alice")]
"""Whose session it is, and who presents its id."""


async def test_owner_is_the_verified_principal(start_worker: StartWorker, kind: str, database_url: str) -> None:
    """What is stored is the client, the issuer, the subject and the tenant of the token that initialize came with."""
    client = RawClient(await start_worker(kind, auth=True), user="alice")
    await client.initialize()
    async with SessionManager.open(database_url) as manager:
        session = await manager.get_session_metadata(client.session_id or "")
    assert session is not None
    assert session.owner == Owner("acme", "client-a", ISSUER, "alice")


async def test_rotated_token_keeps_the_session(start_worker: StartWorker, kind: str) -> None:
    """Another token of the same principal is the same owner, on the worker that opened the session and on others."""
    one, other = await start_worker(kind, auth=True), await start_worker(kind, auth=True)
    client = RawClient(one, user="alice")
    await client.initialize()
    rotated = client.using(user="alice-rotated")
    assert await rotated.call("add", a=1, b=2) == "3"
    assert await rotated.at(other).call("add", a=1, b=2) == "3"
    assert await client.at(other).call("add", a=1, b=2) == "3"


async def test_every_mismatch_looks_like_an_unknown_session(
    start_worker: StartWorker, kind: str, database_url: str
) -> None:
    """Whoever differs in any part gets, on each verb, the bytes of an unknown, ended or expired session; no activity.

    Nobody in particular is one of them: an app without authentication shares the database with one that has it.
    """
    guarded = await start_worker(kind, auth=True, touch_interval=0)
    everybodys = await start_worker(kind, touch_interval=0)
    owners = {name: RawClient(guarded, user=name) for name in ("alice", *STRANGERS)}
    owners["nobody"] = RawClient(everybodys)
    opened = {name: [await session_of(owner) for _ in range(3)] for name, owner in owners.items()}
    async with SessionManager.open(database_url) as manager:
        for name, (_, ended, expired) in opened.items():
            assert (await ended.send("DELETE")).status == 204, name
            await age(database_url, expired.session_id or "", timedelta(hours=1))
        before = await manager.list_sessions()
        for owner, stranger in MISMATCHES:
            thief, *own = opened[stranger]
            for verb in VERBS:
                unknown = await thief.using(session_id="A" * 43).send(verb, ADD)
                assert unknown.status == 404
                for each in (*opened[owner], *own):
                    answer = await thief.using(session_id=each.session_id).send(verb, ADD)
                    assert answer == unknown, (owner, stranger, verb)
        assert await manager.list_sessions() == before
        for first, _, _ in opened.values():
            assert await first.call("add", a=1, b=2) == "3"
        assert await manager.list_sessions() != before


async def session_of(client: RawClient) -> RawClient:
    """The same client with a session of its own."""
    twin = client.using()
    await twin.initialize()
    return twin


@pytest.mark.parametrize("verb", VERBS)
async def test_mismatch_is_refused_where_a_restore_comes_first(start_worker: StartWorker, kind: str, verb: str) -> None:
    """The binding holds on a worker that has not seen the session."""
    client = RawClient(await start_worker(kind, auth=True), user="alice")
    await client.initialize()
    other = await start_worker(kind, auth=True)
    assert (await client.using(browser=other, user="other-subject").send(verb, ADD)).status == 404
    assert await client.at(other).call("add", a=1, b=2) == "3"


@pytest.mark.parametrize("verb", VERBS)
async def test_unauthenticated_request_gets_the_apps_401(start_worker: StartWorker, kind: str, verb: str) -> None:
    """Without a valid token the app's own challenge comes through, for known, unknown, malformed and missing ids."""
    client = RawClient(await start_worker(kind, auth=True), user="alice")
    await client.initialize()
    for user in (None, "expired"):
        for session_id in (client.session_id, "unknown", "mal formed", None):
            response = await client.using(user=user, session_id=session_id).send(verb, ADD)
            assert response.status == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
    assert await client.call("add", a=1, b=2) == "3"


async def test_unauthenticated_initialize_gets_the_apps_401(start_worker: StartWorker, kind: str) -> None:
    """Initialize without a token gets the app's challenge and no id."""
    response = await RawClient(await start_worker(kind, auth=True)).post(INITIALIZE)
    assert response.status == 401
    assert "mcp-session-id" not in response.headers


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["sdk-json", "sdk-sse"])  # FastMCP's own verifier says 401 to it
async def test_insufficient_scope_gets_the_apps_403(start_worker: StartWorker, kind: str, verb: str) -> None:
    """A token of the owner's without the scope that the app wants gets the app's 403, and ends nothing."""
    worker = await start_worker(kind, auth=True)
    client = RawClient(worker, user="alice")
    assert (await client.using(user="no-scope").send(verb, INITIALIZE)).status == 403
    await client.initialize()
    for one in (worker, await start_worker(kind, auth=True)):
        assert (await client.using(browser=one, user="no-scope").send(verb, ADD)).status == 403
    assert await client.call("add", a=1, b=2) == "3"


async def test_tool_sees_the_durable_session(start_worker: StartWorker, kind: str) -> None:
    """A tool finds the digest of the durable session in its request's scope, the same on every worker."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = RawClient(one)
    await client.initialize()
    digest = digest_of(client.session_id or "").hex()
    assert await client.call("session_digest") == digest
    assert await client.at(other).call("session_digest") == digest
