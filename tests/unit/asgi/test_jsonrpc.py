"""What the layer reads of JSON-RPC: an ``initialize`` request, and the response to it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sessions.asgi.jsonrpc import BatchedInitializeError, Initialize, ResponseFinder, initialize_in

INITIALIZE = {"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {"clientInfo": {"name": "ünï"}}}
RESPONSE = {"jsonrpc": "2.0", "id": 7, "result": {"protocolVersion": "2025-11-25"}}
FAILURE = {"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": "no"}}
NOISE: list[Any] = [
    {"jsonrpc": "2.0", "method": "notifications/message", "params": {}},
    {"jsonrpc": "2.0", "id": 7, "method": "ping"},  # a request of the server's own, with an id of its own
    {"jsonrpc": "2.0", "id": 8, "result": {}},
    ["7"],
]


def text(message: object) -> bytes:
    """A message as JSON in UTF-8."""
    return json.dumps(message, ensure_ascii=False).encode()


@pytest.mark.parametrize("request_id", [7, "seven", 0, ""])
def test_initialize_is_kept_to_the_letter(request_id: str | int) -> None:
    """The text of an initialize request is what its bytes were, blanks and all."""
    body = b" \n" + text({**INITIALIZE, "id": request_id}) + b"\t"
    assert initialize_in(body) == Initialize(request_id, body.decode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"initialize"',
        b"\xff\xfe",
        b"[" * 100_000,
        text({**INITIALIZE, "method": "ping"}),
        text({**INITIALIZE, "id": None}),
        text({**INITIALIZE, "id": 1.5}),
        text({**INITIALIZE, "method": ["initialize"]}),
        text({"jsonrpc": "2.0", "method": "initialize"}),
        text([{"jsonrpc": "2.0", "id": 1, "method": "ping"}]),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_everything_else_is_no_initialize(body: bytes) -> None:
    """What is not one initialize request with an id is none, be it JSON or not."""
    assert initialize_in(body) is None


@pytest.mark.parametrize("batch", [[INITIALIZE], [{"method": "ping"}, INITIALIZE], [{"method": "initialize"}, 7]])
def test_batched_initialize_is_an_error(batch: list[object]) -> None:
    """An initialize anywhere in a batch is refused, with an id or without."""
    with pytest.raises(BatchedInitializeError):
        initialize_in(text(batch))


def fed(finder: ResponseFinder, pieces: list[bytes]) -> list[dict[str, Any] | None]:
    """What the finder says to each piece."""
    return [finder.feed(piece, last=place == len(pieces) - 1) for place, piece in enumerate(pieces)]


@given(st.data(), st.sampled_from([RESPONSE, FAILURE]))
def test_json_response_is_found_however_it_is_cut(data: st.DataObject, response: dict[str, Any]) -> None:
    """A JSON answer is read at its end, wherever the pieces of it were cut."""
    pieces = cut(text(response), data)
    assert fed(ResponseFinder(7, b"application/json"), pieces) == [None] * (len(pieces) - 1) + [response]


@given(st.data(), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["", " "]))
def test_event_is_found_however_it_is_cut(data: st.DataObject, end: str, blank: str) -> None:
    """An event stream is read event by event, with any line end, in any pieces, past all that is not the response."""
    lines = [f": ping{end}", f"event: message{end}id: 1{end}data:{end}"]
    for message in [*NOISE, RESPONSE]:
        parts = json.dumps(message, ensure_ascii=False).split(", ")
        lines.append("".join(f"data:{blank}{part}{', ' if part is not parts[-1] else ''}{end}" for part in parts))
    stream = "".join(f"{event}{end}" for event in lines).encode()
    found = fed(ResponseFinder(7, b"Text/Event-Stream; charset=utf-8"), cut(stream, data))
    assert [each for each in found if each is not None] == [RESPONSE]


@pytest.mark.parametrize("body", [b"", b"{", *(text(message) for message in NOISE)])
def test_answer_without_the_response_has_none(body: bytes) -> None:
    """An answer that ends without the response to this request has none."""
    assert ResponseFinder(7, b"application/json").feed(body, last=True) is None
    assert ResponseFinder(7, b"text/event-stream").feed(b"data: " + body + b"\n\n", last=True) is None


def test_unfinished_event_is_none() -> None:
    """An event counts once the empty line behind it has come."""
    finder = ResponseFinder(7, b"text/event-stream")
    assert finder.feed(b"data: " + text(RESPONSE) + b"\n", last=False) is None
    assert finder.feed(b"\n", last=False) == RESPONSE


def cut(whole: bytes, data: st.DataObject) -> list[bytes]:
    """Cut bytes into pieces anywhere."""
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]
