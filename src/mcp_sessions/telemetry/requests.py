"""One HTTP request, followed: a span that joins the client's trace, and what is recorded of its duration.

The client's trace is told by whatever stands in front and has begun a span already, else by the header ``traceparent``,
else by ``_meta`` of the JSON-RPC message, as MCP's convention has it. The last one is known only when the body comes:
the span then begins as late, with the time at which the request came. Of what a client says only known words become
attributes; the session shows as the short digest, never as its id.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from mcp_sessions.instruments import Message, Receive, Send

Scope = Message

_SERVER_ERROR = 500
_ERROR = 400
_OTHER = "_OTHER"
_LONGEST_READ = 64 * 1024
_HTTP_METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
_MCP_METHODS = frozenset({
    "initialize", "ping", "tools/list", "tools/call", "resources/list", "resources/templates/list", "resources/read",
    "resources/subscribe", "resources/unsubscribe", "prompts/list", "prompts/get", "completion/complete",
    "logging/setLevel", "subscriptions/listen", "server/discover", "tasks/get", "tasks/result", "tasks/list",
    "tasks/cancel", "notifications/initialized", "notifications/cancelled", "notifications/progress",
    "notifications/roots/list_changed",
})  # fmt: skip

_followed: ContextVar["FollowedRequest | None"] = ContextVar("followed_request", default=None)


def followed() -> "FollowedRequest | None":
    """Return the request that is being served here, if it is followed."""
    return _followed.get()


@contextmanager
def follow_request(tracer: Tracer, scope: Scope, receive: Receive, send: Send) -> Iterator["FollowedRequest"]:
    """Follow a request inside this context, with its span as the current one as soon as that has begun.

    What it took and how it ended is known once the context was left.
    """
    outer = contexts.get_current()
    request = FollowedRequest(tracer, scope, receive, send)
    token = _followed.set(request)
    try:
        yield request
    except BaseException as error:
        request.error = type(error).__qualname__
        raise
    finally:
        request.end()
        _followed.reset(token)
        contexts.attach(outer)  # no token: the span may have begun in another task


class FollowedRequest:
    """What is known of one request; ``receive`` and ``send`` stand in for the server's."""

    def __init__(self, tracer: Tracer, scope: Scope, receive: Receive, send: Send) -> None:
        self.short_digest: str | None = None
        self.error: str | None = None
        self.seconds = 0.0
        self._tracer = tracer
        self._receive = receive
        self._send = send
        self._status: int | None = None
        self._mcp_method: str | None = None
        self._http_method = scope["method"] if scope["method"] in _HTTP_METHODS else _OTHER
        self._scheme = scope["scheme"] if scope.get("scheme") in {"http", "https"} else _OTHER
        self._span: Span | None = None
        self._began, self._began_at = time.perf_counter(), time.time_ns()
        self._unread = scope["method"] == "POST"
        if trace.get_current_span().get_span_context().is_valid:
            self._begin(None, SpanKind.INTERNAL)
        elif (parent := _parent_in(_headers_of(scope))) is not None:
            self._begin(parent)
        elif not self._unread:
            self._begin(None)

    @property
    def http_attributes(self) -> dict[str, str | int]:
        """What the duration of the HTTP request is told with."""
        attributes: dict[str, str | int] = {"http.request.method": self._http_method, "url.scheme": self._scheme}
        if self._status is not None:
            attributes["http.response.status_code"] = self._status
        if error := self._error_above(_SERVER_ERROR):
            attributes["error.type"] = error
        return attributes

    @property
    def context(self) -> Context:
        """The context with its span, for who records something of it."""
        return contexts.Context() if self._span is None else trace.set_span_in_context(self._span, contexts.Context())

    @property
    def mcp_attributes(self) -> dict[str, str | int] | None:
        """What the duration of the MCP operation is told with; None where it was none."""
        if self._mcp_method is None:
            return None
        error = self._error_above(_ERROR)
        return {"mcp.method.name": self._mcp_method, **({"error.type": error} if error else {})}

    async def receive(self) -> Message:
        """Receive the next message, and look into the first one."""
        message = await self._receive()
        if self._unread and message["type"] == "http.request":
            self._unread = False
            content = _content_of(message)
            self._mcp_method = _method_in(content)
            if self._span is None:
                self._begin(_parent_in(_meta_in(content)))
        return message

    async def send(self, message: Message) -> None:
        """Send a message, and take note of the status."""
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
        await self._send(message)

    def end(self) -> None:
        """Take the time, and end the span."""
        self.seconds = time.perf_counter() - self._began
        span = self._span or self._begin(None)
        if span.is_recording():
            if self._mcp_method is not None:
                span.update_name(f"{self._http_method} {self._mcp_method}")
            span.set_attributes({**self.http_attributes, **(self.mcp_attributes or {})})
            if self.short_digest is not None:
                span.set_attribute("mcp_sessions.session.digest", self.short_digest)
            if self._error_above(_SERVER_ERROR):
                span.set_status(StatusCode.ERROR)
        span.end()

    def _begin(self, parent: Context | None, kind: SpanKind = SpanKind.SERVER) -> Span:
        span = self._tracer.start_span(self._http_method, parent, kind, start_time=self._began_at)
        contexts.attach(trace.set_span_in_context(span, parent))
        self._span = span
        return span

    def _error_above(self, least: int) -> str | None:
        if self.error is not None:
            return self.error
        return str(self._status) if self._status is not None and self._status >= least else None


def _headers_of(scope: Scope) -> dict[str, str]:
    fields = _fields_of(propagate.get_global_textmap())
    return {fields[name]: value.decode("latin-1") for name, value in reversed(scope["headers"]) if name in fields}


@cache
def _fields_of(propagator: TextMapPropagator) -> dict[bytes, str]:
    """Return the names of the headers that tell of a trace, as ASGI has them."""
    return {name.lower().encode(): name for name in propagator.fields}


def _parent_in(carrier: dict[str, str]) -> Context | None:
    """Return the context that a client sent; None where it sent none, or one that makes no sense."""
    if not carrier:
        return None
    found = propagate.extract(carrier)
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def _content_of(message: Message) -> Any:
    body = message.get("body", b"")
    if message.get("more_body", False) or len(body) > _LONGEST_READ:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _method_in(content: Any) -> str | None:
    """Return the method, where the body is one message that has one; of a long one nobody knows."""
    if isinstance(content, dict) and "method" not in content:
        return None
    method = content.get("method") if isinstance(content, dict) else None
    return method if isinstance(method, str) and method in _MCP_METHODS else _OTHER


def _meta_in(content: Any) -> dict[str, str]:
    params = content.get("params") if isinstance(content, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    if not isinstance(meta, dict):
        return {}
    fields = _fields_of(propagate.get_global_textmap()).values()
    return {name: meta[name] for name in fields if isinstance(meta.get(name), str)}
