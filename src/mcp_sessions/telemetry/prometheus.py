"""Metrics for Prometheus, on a port of their own: in a thread, so that they answer while the event loop is busy.

Each worker answers for itself, so that each has a port: the first free one of as many as there are workers. A worker
that takes the place of another finds that one's port free a moment later, and tries until then.
"""

import logging
import threading
import time

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import get_meter_provider, set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

from mcp_sessions.errors import ConfigurationError
from mcp_sessions.logs import log

_PAUSE_SECONDS = 1.0


def require_no_metrics() -> None:
    """Raise ``ConfigurationError`` where the process has set up OpenTelemetry's metrics by itself."""
    if isinstance(get_meter_provider(), MeterProvider):
        raise ConfigurationError(
            "the app sets up the metrics of OpenTelemetry itself: leave out --metrics, set "
            "MCP_SESSIONS_TELEMETRY=true, and give a PrometheusMetricReader to its MeterProvider"
        )


def serve_metrics(host: str, ports: range) -> None:
    """Have this process answer ``/metrics`` at the first of these ports that is free; returns at once.

    Raises:
        ConfigurationError: the process has set up OpenTelemetry's metrics by itself.
    """
    require_no_metrics()
    set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    threading.Thread(target=_listen, args=(host, ports), name="mcp-sessions metrics", daemon=True).start()


def _listen(host: str, ports: range) -> None:
    has_warned = False
    while True:
        for port in ports:
            try:
                start_http_server(port, host)
            except OSError:
                continue
            log(logging.INFO, "metrics", "metrics at http://%(host)s:%(port)s/metrics", host=host, port=port)
            return
        if not has_warned:
            has_warned = True
            log(
                logging.WARNING,
                "metrics_unavailable",
                "no port from %(first)s to %(last)s of %(host)s is free for metrics: trying again",
                first=ports[0],
                last=ports[-1],
                host=host,
            )
        time.sleep(_PAUSE_SECONDS)
