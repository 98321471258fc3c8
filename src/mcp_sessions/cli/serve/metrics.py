"""Where the workers of ``serve`` answer Prometheus: each on a port of its own, beside the one for MCP."""

from dataclasses import dataclass

from mcp_sessions.errors import ConfigurationError

_LAST_PORT = 65535


@dataclass(frozen=True)
class Metrics:
    """Where workers answer Prometheus, each at the first of these ports that is free."""

    host: str
    ports: range

    def check(self) -> None:
        """Raise ``ConfigurationError`` where the app, which was loaded, measures by itself."""
        from mcp_sessions.telemetry.prometheus import require_no_metrics  # it needs an extra

        require_no_metrics()

    def serve(self) -> None:
        """Have this process do so."""
        from mcp_sessions.telemetry.prometheus import serve_metrics  # it needs an extra

        serve_metrics(self.host, self.ports)


def metrics_of(place: str, workers: int) -> Metrics:
    """Return where so many workers answer Prometheus.

    Raises:
        ConfigurationError: this is no port, nor an address and a port.
    """
    host, _, port = place.rpartition(":")
    most = _LAST_PORT - workers + 1
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= most):
        raise ConfigurationError(
            f"--metrics takes a port from 1 to {most}, or an address and one; {place!r} is neither"
        )
    return Metrics(host.strip("[]") or "127.0.0.1", range(int(port), int(port) + workers))
