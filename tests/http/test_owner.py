"""A session belongs to the principal that opened it, as a whole; the app authenticates inside, as the SDKs do."""

import pytest

from mcp_sessions import SessionManager
from mcp_sessions.model import Owner, digest_of
from tests.http.conftest import StartWorker
from tests.support.mcp_client import INITIALIZE, RawClient, call
from tests.support.mcp_servers import ISSUER, PRINCIPALS

VERBS = ["POST", "GET", "DELETE"]
ADD = call("add", a=1, b=2)
STRANGERS = sorted(set(PRINCIPALS) - {"alice", "alice-rotated", "no-scope"})


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


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_other_principal_gets_the_404_of_an_unknown_session(
    start_worker: StartWorker, database_url: str, stranger: str
) -> None:
    """On each verb, whoever differs in one part gets the bytes of an unknown session, and it is no activity."""
    worker = await start_worker(auth=True, touch_interval=0)
    client = RawClient(worker, user="alice")
    await client.initialize()
    thief = client.using(user=stranger)
    async with SessionManager.open(database_url) as manager:
        before = await manager.get_session_metadata(client.session_id or "")
        for verb in VERBS:
            unknown = await thief.using(session_id="A" * 43).send(verb, ADD)
            assert unknown.status == 404
            assert await thief.send(verb, ADD) == unknown
        assert await manager.get_session_metadata(client.session_id or "") == before
        assert await client.call("add", a=1, b=2) == "3"
        assert await manager.get_session_metadata(client.session_id or "") != before


@pytest.mark.parametrize("verb", VERBS)
async def test_other_principal_is_refused_by_both_sdks(start_worker: StartWorker, kind: str, verb: str) -> None:
    """The binding holds on each SDK in each mode, also on a worker that has to restore first."""
    one, other = await start_worker(kind, auth=True), await start_worker(kind, auth=True)
    client = RawClient(one, user="alice")
    await client.initialize()
    for worker in (one, other):
        assert (await client.using(browser=worker, user="other-subject").send(verb, ADD)).status == 404
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


@pytest.mark.parametrize("kind", ["sdk-json", "sdk-sse"])  # FastMCP's own verifier says 401 to it
async def test_insufficient_scope_gets_the_apps_403(start_worker: StartWorker, kind: str) -> None:
    """A token without the scope that the app wants gets the app's 403, for initialize and on a session alike."""
    worker = await start_worker(kind, auth=True)
    stranger = RawClient(worker, user="no-scope")
    assert (await stranger.post(INITIALIZE)).status == 403
    client = RawClient(worker, user="alice")
    await client.initialize()
    for one in (worker, await start_worker(kind, auth=True)):
        assert (await client.using(browser=one, user="no-scope").post(ADD)).status == 403


@pytest.mark.parametrize("verb", VERBS)
async def test_anonymous_request_cannot_use_an_owned_session(start_worker: StartWorker, verb: str) -> None:
    """Where an app serves everybody, a session that was opened with a token is closed to those without."""
    guarded, open_to_all = await start_worker(auth=True), await start_worker(auth=False)
    client = RawClient(guarded, user="alice")
    await client.initialize()
    anonymous = client.using(browser=open_to_all, user=None)
    assert (await anonymous.send(verb, ADD)).status == 404
    assert await client.call("add", a=1, b=2) == "3"


@pytest.mark.parametrize("verb", VERBS)
async def test_owner_cannot_use_an_anonymous_session(start_worker: StartWorker, verb: str) -> None:
    """A session that was opened without a token is closed to those with one."""
    guarded, open_to_all = await start_worker(auth=True), await start_worker(auth=False)
    anonymous = RawClient(open_to_all)
    await anonymous.initialize()
    alice = anonymous.using(browser=guarded, user="alice")
    assert (await alice.send(verb, ADD)).status == 404
    assert await anonymous.call("add", a=1, b=2) == "3"


async def test_tool_sees_the_durable_session(start_worker: StartWorker, kind: str) -> None:
    """A tool finds the digest of the durable session in its request's scope, the same on every worker."""
    one, other = await start_worker(kind), await start_worker(kind)
    client = RawClient(one)
    await client.initialize()
    digest = digest_of(client.session_id or "").hex()
    assert await client.call("session_digest") == digest
    assert await client.at(other).call("session_digest") == digest
