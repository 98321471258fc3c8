"""Metrics and traces by the OpenTelemetry API: what the setting ``telemetry`` switches on.

Nobody needs this package, and nobody imports it while the setting is off. ``metrics`` counts, ``requests`` follows one
request and its span, ``deferred`` records durations while nobody waits, ``live`` asks now and then how many sessions
there are; ``prometheus`` shows metrics to whoever scrapes them, for ``mcp-sessions serve --metrics``. Where the numbers
go is the operator's to say, by an OpenTelemetry SDK; without one the API does nothing.
"""

from mcp_sessions.telemetry.metrics import OpenTelemetry, shared_instruments

__all__ = ["OpenTelemetry", "shared_instruments"]
