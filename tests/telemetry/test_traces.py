"""A span for each request, in the trace of whoever called, with the session's short digest and never its id."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from mcp_sessions.digests import digest_of, short_digest
from mcp_sessions.telemetry import OpenTelemetry
from tests.support.mcp_client import INITIALIZE, RawClient, call
from tests.telemetry.conftest import Seen, worker_on

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ADD = call("add", a=1, b=2)
DIGEST = "mcp_sessions.session.digest"


def with_meta(message: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """Return a message with `_meta`."""
    return {**message, "params": {**message["params"], "_meta": meta}}


@pytest.mark.parametrize("kind", ["sdk-json", "fastmcp-json"])
async def test_a_span_joins_the_trace_of_the_header(sqlite_url: str, seen: Seen, kind: str) -> None:
    """`traceparent` makes the span a child of the client's; it tells method, status and digest, never the id."""
    async with worker_on(sqlite_url, seen, kind) as browser:
        client = RawClient(browser)
        await client.initialize()
        await client.post(ADD, ("traceparent", TRACEPARENT))
        session_id = client.session_id
    assert session_id is not None
    span = seen.spans[-1]
    assert (span.name, span.kind) == ("POST tools/call", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    attributes = dict(span.attributes or {})
    assert attributes["http.response.status_code"] == 200
    digest = short_digest(digest_of(session_id))
    assert [dict(each.attributes or {}).get(DIGEST) for each in seen.spans] == [digest] * 3
    assert not any(session_id in each.to_json() for each in seen.spans)


async def test_a_span_joins_the_trace_of_meta(sqlite_url: str, seen: Seen) -> None:
    """Without the header `_meta` of the message tells the trace, and with it the header does."""
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        await client.initialize()
        await client.post(with_meta(ADD, traceparent=TRACEPARENT))
        await client.post(with_meta(ADD, traceparent=OTHER), ("traceparent", TRACEPARENT))
    for span in seen.spans[-2:]:
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE


@pytest.mark.parametrize("nonsense", ["", "00-0-0-00", "x" * 5000, 7, None, [TRACEPARENT], {"a": 1}])
async def test_a_trace_that_makes_no_sense_is_none(sqlite_url: str, seen: Seen, nonsense: Any) -> None:
    """A malformed `traceparent`, in the header or in `_meta`, begins a trace of its own, and the call is answered."""
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        await client.initialize()
        response = await client.post(with_meta(ADD, traceparent=nonsense), ("traceparent", str(nonsense)))
        assert response.status in {200, 400}
    assert seen.spans[-1].parent is None


async def test_faults_are_errors_and_refusals_are_not(sqlite_url: str, seen: Seen) -> None:
    """A span of a 404 is no error of the server's; one whose caller was broken off says so."""
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        client.session_id = "unknown"
        assert (await client.post(ADD)).status == 404
    (span,) = seen.spans
    assert span.status.status_code is StatusCode.UNSET
    assert DIGEST not in (span.attributes or {})


async def test_requests_at_once_keep_their_traces_apart(sqlite_url: str, seen: Seen) -> None:
    """Many calls at once, each of another trace, have each its own span there."""
    traces = [f"{nth:032x}" for nth in range(1, 33)]
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        await client.initialize()
        before = len(seen.spans)
        headers = [("traceparent", f"00-{trace}-{PARENT}-01") for trace in traces]
        await asyncio.gather(*(client.post({**ADD, "id": nth}, header) for nth, header in enumerate(headers)))
    found = sorted(f"{span.context.trace_id:032x}" for span in seen.spans[before:] if span.context is not None)
    assert found == traces


class _Collector(BaseHTTPRequestHandler):
    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        """Take what is exported."""
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP collector over HTTP: its URL, and what it has received."""

    class Collector(_Collector):
        received: list[ExportTraceServiceRequest] = []  # noqa: RUF012 - one for each test

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", Collector.received
        server.shutdown()
        serving.join()


async def test_a_collector_sees_the_spans_joined(
    sqlite_url: str, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    """Over OTLP, the span of a call arrives in the trace of its caller."""
    endpoint, received = collector
    seen, tracers, meters = Seen(), TracerProvider(), MeterProvider()
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint)))
    own, seen.instruments = seen.instruments, OpenTelemetry(meters, tracers)
    async with worker_on(sqlite_url, seen) as browser:
        client = RawClient(browser)
        client.session_id = (await client.post(INITIALIZE)).headers["mcp-session-id"]
        await client.post(with_meta(ADD, traceparent=TRACEPARENT))
    tracers.shutdown()
    meters.shutdown()
    seen.close()
    assert own.is_on
    spans = [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    joined = [span for span in spans if span.trace_id.hex() == TRACE]
    assert [(span.name, span.parent_span_id.hex()) for span in joined] == [("POST tools/call", PARENT)]
    assert len(spans) == 2
