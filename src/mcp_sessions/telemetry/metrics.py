"""What is counted and measured, under the names of the semantic conventions where they have one.

What happens at every request is counted in plain numbers, which are read when somebody collects: that costs a request
next to nothing. Only durations are recorded one by one, a moment later. No attribute names a tenant, a client or a
session: every set of attributes is a small one, whatever clients send.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import TracerProvider

from mcp_sessions.instruments import Instruments, Pool, Receive, Send
from mcp_sessions.telemetry.deferred import DeferredRecords
from mcp_sessions.telemetry.live import LiveCount
from mcp_sessions.telemetry.requests import FollowedRequest, Scope, follow_request, followed

SCOPE = "mcp_sessions"
"""The name of meter and tracer."""

_COUNTERS = {
    "mcp_sessions.session.created": ("{session}", None, "Sessions that were created here"),
    "mcp_sessions.session.resumed": ("{use}", None, "Uses of sessions by their owners"),
    "mcp_sessions.session.refused": ("{use}", None, "Uses refused: unknown, expired, ended or another owner's"),
    "mcp_sessions.session.ended": ("{session}", "mcp_sessions.end.kind", "Sessions that ended here, by kind"),
    "mcp_sessions.batch.runs": ("{run}", "mcp_sessions.batch.name", "Runs of joined calls"),
    "mcp_sessions.batch.calls": ("{call}", "mcp_sessions.batch.name", "Calls that were joined into runs"),
    "mcp_sessions.batch.wait": ("s", "mcp_sessions.batch.name", "How long the first call of each run waited"),
    "mcp_sessions.cleanup.runs": ("{run}", "mcp_sessions.cleanup.outcome", "Cleanup runs of this worker"),
    "mcp_sessions.cleanup.removed": ("{row}", "mcp_sessions.cleanup.rows", "Rows that its cleanup runs removed"),
    "mcp_sessions.message.sent": ("{message}", "mcp_sessions.message.kind", "Messages left for other workers"),
    "mcp_sessions.message.received": ("{message}", "mcp_sessions.message.kind", "Messages of other workers"),
}
"""The unit of each, the attribute that tells its kinds apart if it has any, and what it means."""

_FROM_THE_START = [
    *((name, "") for name, (_, kinds, _) in _COUNTERS.items() if kinds is None),
    *(("mcp_sessions.session.ended", kind) for kind in ("terminated", "revoked", "expired", "cleared")),
    *(("mcp_sessions.cleanup.runs", outcome) for outcome in ("done", "failed")),
]
"""What is told before it has happened, so that the first time shows as a change."""

_OPERATIONS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]
"""Bounds of buckets in seconds, as the conventions on MCP have them."""
_REQUESTS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""The same, as the conventions on HTTP have them."""
_LIVES = [10, 60, 300, 900, 1800, 3600, 4 * 3600, 12 * 3600, 86400, 7 * 86400]


class OpenTelemetry(Instruments):
    """Hands on what happens to OpenTelemetry: to these providers, by default to those of the process."""

    is_on = True

    def __init__(
        self, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        self._counts: dict[tuple[str, str], float] = dict.fromkeys(_FROM_THE_START, 0)
        self._deferred = DeferredRecords()
        self._watched: dict[Pool, tuple[int, LiveCount]] = {}
        own = version("mcp-sessions")
        self._tracer = trace.get_tracer(SCOPE, own, tracer_provider)
        meter = metrics.get_meter(SCOPE, own, meter_provider)
        for name, (unit, _, meaning) in _COUNTERS.items():
            meter.create_observable_counter(name, [partial(self._observe, name)], unit, meaning)
        meter.create_observable_gauge(
            "mcp_sessions.session.live",
            [self._observe_live],
            "{session}",
            "Live sessions in the database, the same on each worker",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [self._observe_pool],
            "{connection}",
            "Connections in use, those of the calls of every request not counted",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.max",
            [self._observe_pool_size],
            "{connection}",
            "The most connections that the process opens",
        )
        histogram = meter.create_histogram
        self._lives = histogram(
            "mcp.server.session.duration",
            "s",
            "Life of sessions that were ended one by one",
            explicit_bucket_boundaries_advisory=_LIVES,
        )
        self._restores = histogram(
            "mcp_sessions.session.restore.duration",
            "s",
            "Duration of restores of app sessions",
            explicit_bucket_boundaries_advisory=_OPERATIONS,
        )
        self._operations = histogram(
            "mcp.server.operation.duration",
            "s",
            "Duration of MCP requests and notifications",
            explicit_bucket_boundaries_advisory=_OPERATIONS,
        )
        self._requests = histogram(
            "http.server.request.duration",
            "s",
            "Duration of HTTP requests at the MCP endpoint",
            explicit_bucket_boundaries_advisory=_REQUESTS,
        )

    def session_created(self) -> None:
        """Count it."""
        self._count("mcp_sessions.session.created")

    def session_resumed(self) -> None:
        """Count it."""
        self._count("mcp_sessions.session.resumed")

    def session_refused(self) -> None:
        """Count it."""
        self._count("mcp_sessions.session.refused")

    def session_ended(self, created_at: datetime) -> None:
        """Count it, and record how long it lived, by this worker's clock."""
        self._count("mcp_sessions.session.ended", "terminated")
        self._lives.record(max(0.0, (datetime.now(UTC) - created_at).total_seconds()))

    def sessions_ended(self, kind: str, count: int) -> None:
        """Count them."""
        self._count("mcp_sessions.session.ended", kind, count)

    def session_restored(self, outcome: str, seconds: float) -> None:
        """Record it."""
        self._restores.record(seconds, {"mcp_sessions.restore.outcome": outcome})

    def batch_begun(self, name: str, calls: int, waited_seconds: float) -> None:
        """Count it."""
        self._count("mcp_sessions.batch.runs", name)
        self._count("mcp_sessions.batch.calls", name, calls)
        self._count("mcp_sessions.batch.wait", name, waited_seconds)

    def rows_removed(self, rows: str, count: int) -> None:
        """Count them."""
        self._count("mcp_sessions.cleanup.removed", rows, count)

    def cleanup_ended(self, outcome: str) -> None:
        """Count it."""
        self._count("mcp_sessions.cleanup.runs", outcome)

    def messages_sent(self, kind: str, count: int) -> None:
        """Count them."""
        self._count("mcp_sessions.message.sent", kind, count)

    def message_received(self, kind: str) -> None:
        """Count it."""
        self._count("mcp_sessions.message.received", kind)

    def session_of_request(self, short_digest: str) -> None:
        """Put the digest on the request's span."""
        if (request := followed()) is not None:
            request.short_digest = short_digest

    @contextmanager
    def request(self, scope: Scope, receive: Receive, send: Send) -> Iterator[tuple[Receive, Send]]:
        """Follow a request by a span, and record its duration."""
        request: FollowedRequest | None = None
        try:
            with follow_request(self._tracer, scope, receive, send) as request:
                yield request.receive, request.send
        finally:
            if request is not None:
                self._record(request)

    def watch(self, pool: Pool, pool_size: int, count_live: Callable[[], Awaitable[int]]) -> None:
        """Tell of it whenever somebody collects."""
        _ = pool.connections_in_use  # asked first in the event loop, where the database may make its pools
        self._watched[pool] = pool_size, LiveCount(count_live)

    async def unwatch(self, pool: Pool) -> None:
        """Tell of it no more."""
        self._deferred.all()
        if (watched := self._watched.pop(pool, None)) is not None:
            await watched[1].close()

    def _count(self, name: str, kind: str = "", by: float = 1) -> None:
        key = name, kind
        self._counts[key] = self._counts.get(key, 0) + by

    def _record(self, request: FollowedRequest) -> None:
        later, seconds, context = self._deferred.add, request.seconds, request.context
        later(self._requests, seconds, request.http_attributes, context)
        if (attributes := request.mcp_attributes) is not None:
            later(self._operations, seconds, attributes, context)

    def _observe(self, name: str, _options: CallbackOptions) -> Iterable[Observation]:
        attribute = _COUNTERS[name][1]
        for (counted, kind), count in self._counts.copy().items():
            if counted == name:
                yield Observation(count, {attribute: kind} if attribute else {})

    def _observe_live(self, _options: CallbackOptions) -> Iterable[Observation]:
        self._deferred.all()  # callbacks come before what was recorded is read
        by_database = {pool.shown_url: live.value() for pool, (_, live) in self._watched.copy().items()}
        known = [count for count in by_database.values() if count is not None]
        if known:
            yield Observation(sum(known))

    def _observe_pool(self, _options: CallbackOptions) -> Iterable[Observation]:
        used = sum(pool.connections_in_use for pool in self._watched.copy())
        yield Observation(used, {"db.client.connection.state": "used", "db.client.connection.pool.name": SCOPE})

    def _observe_pool_size(self, _options: CallbackOptions) -> Iterable[Observation]:
        most = sum(size for size, _ in self._watched.copy().values())
        yield Observation(most, {"db.client.connection.pool.name": SCOPE})


@cache
def shared_instruments() -> OpenTelemetry:
    """Return the instruments of this process: one set, however many managers it has."""
    return OpenTelemetry()
