"""A worker whose metrics and spans stay in this process, to be looked at."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_sessions import SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.settings import load_settings
from mcp_sessions.telemetry import OpenTelemetry
from tests.support.asgi import Browser, browsing
from tests.support.mcp_servers import APPS


class Seen:
    """What was measured and traced."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self._meters = MeterProvider([self._reader])
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.instruments = OpenTelemetry(self._meters, self._tracers)

    def metric(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Return the points of a metric, by the values of their attributes in the order of the attributes' names."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            tuple(value for _, value in sorted((point.attributes or {}).items())): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    def value(self, name: str, *attributes: str) -> Any:
        """Return the number of one point; None where there is none."""
        point = self.metric(name).get(attributes)
        return None if point is None else point.value

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, oldest first."""
        return [*self._exporter.get_finished_spans()]

    def close(self) -> None:
        """Measure no more."""
        self._meters.shutdown()
        self._tracers.shutdown()


@pytest.fixture
def seen() -> Iterator[Seen]:
    """What was measured and traced in this test."""
    seen = Seen()
    yield seen
    seen.close()


@contextlib.asynccontextmanager
async def worker_on(url: str, seen: Seen, kind: str = "sdk-json", **settings: Any) -> AsyncIterator[Browser]:
    """A worker that tells of itself."""
    made = load_settings(database_url=url, **settings)
    async with SessionManager.open_with(made, instruments=seen.instruments) as manager:
        app = DurableSessions(APPS[kind](auth=False), sessions=manager)
        async with app.lifespan(), browsing(app) as browser:
            yield browser
