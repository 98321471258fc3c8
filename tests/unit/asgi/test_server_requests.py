"""The ids that the server's own requests get, and which answers are theirs."""

from typing import Any

import pytest

from mcp_sessions.asgi.server_requests import ServerRequests, UnknownAnswerError


def ping(request_id: Any) -> dict[str, Any]:
    """A request of the server's."""
    return {"jsonrpc": "2.0", "id": request_id, "method": "ping"}


def pong(request_id: Any) -> dict[str, Any]:
    """A client's answer."""
    return {"jsonrpc": "2.0", "id": request_id, "result": {}}


def test_ids_tell_the_worker_and_are_never_the_same() -> None:
    """A thousand sessions of a worker that all ask under the id 1 give a thousand ids, which begin alike."""
    worker = "one-of-many"
    ids = {ServerRequests(worker).to_client(ping(1))["id"] for _ in range(1000)}
    assert len(ids) == 1000
    assert {each.partition(".")[0] for each in ids} == {worker}


@pytest.mark.parametrize("app_id", [0, 1, -1, "1", "", "a.b", 1.5])
def test_answer_has_the_id_that_the_app_gave(app_id: Any) -> None:
    """The app gets its own id back, of the type that it had."""
    requests = ServerRequests("w")
    given = requests.to_client(ping(app_id))["id"]
    answer = requests.to_app(pong(given))
    assert (answer, type(answer["id"])) == (pong(app_id), type(app_id))


def test_number_and_its_text_are_two_ids() -> None:
    """An app may ask under 1 and under "1" at once."""
    requests = ServerRequests("w")
    number, text = (requests.to_client(ping(each))["id"] for each in (1, "1"))
    assert number != text
    assert requests.to_app(pong(text))["id"] == "1"


def test_replayed_request_has_the_id_that_it_had() -> None:
    """A request that waits and comes once more, as on a stream that is resumed, is the same one to the client."""
    requests = ServerRequests("w")
    first, again = (requests.to_client(ping(1)) for _ in range(2))
    assert first == again
    requests.settle(pong(first["id"]))
    assert requests.to_client(ping(1)) != first


def test_settled_request_waits_no_more() -> None:
    """An answer counts once; until the app has accepted it, it may come again."""
    requests = ServerRequests("w")
    given = requests.to_client(ping(1))["id"]
    assert requests.to_app(pong(given)) == requests.to_app(pong(given))
    requests.settle([pong(given), pong("other"), 7])
    assert len(requests) == 0
    with pytest.raises(UnknownAnswerError):
        requests.to_app(pong(given))


def test_oldest_is_forgotten_beyond_the_bound() -> None:
    """Requests that nobody ever answers fill no memory; what is forgotten cannot be answered any more."""
    requests = ServerRequests("w", most=3)
    first, *others = [requests.to_client(ping(number))["id"] for number in range(4)]
    assert len(requests) == 3
    with pytest.raises(UnknownAnswerError):
        requests.to_app(pong(first))
    assert [requests.to_app(pong(each))["id"] for each in others] == [1, 2, 3]


UNTOUCHED: list[Any] = [
    {"jsonrpc": "2.0", "id": 1, "result": {"method": "ping"}},
    {"jsonrpc": "2.0", "method": "notifications/message", "params": {"id": 1}},
    {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": [5]},
    {"jsonrpc": "2.0", "method": "notifications/cancelled"},
    [],
    [7, "text", None],
    7,
    None,
]


@pytest.mark.parametrize("message", UNTOUCHED, ids=repr)
def test_what_asks_nothing_is_the_same_object(message: Any) -> None:
    """Messages of the app's that are no requests pass as they are."""
    assert ServerRequests("w").to_client(message) is message


def test_params_that_are_no_object_are_left_alone() -> None:
    """A request may have params that no SDK would send."""
    for params in (None, [1], {"_meta": None}, {"_meta": {"progressToken": None}}):
        named = ServerRequests("w").to_client({**ping(1), "params": params})
        assert named["params"] == params
