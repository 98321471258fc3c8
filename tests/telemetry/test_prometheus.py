"""What Prometheus gets, and that dashboard and alert rules ask for what there is."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mcp_sessions import ConfigurationError, SessionManager
from mcp_sessions.cli.serve.metrics import metrics_of
from mcp_sessions.settings import load_settings
from mcp_sessions.telemetry import OpenTelemetry, prometheus
from tests.support.mcp_client import ACCEPT, INITIALIZE
from tests.support.pages import ROOT
from tests.support.polling import until
from tests.support.processes import free_port, poll
from tests.support.serving import serving

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "mcp-sessions.json"
RULES = DEPLOY / "prometheus" / "alerts.yml"
OWN = re.compile(r"\b(?:mcp_|http_server_|db_client_)\w+")
AT_PROMETHEUS = {"job", "instance", "le", "otel_scope_name"}


def samples(text: str) -> dict[str, set[str]]:
    """Return the names of all samples in a scrape, and the labels of each."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture
async def scraped(sqlite_url: str) -> dict[str, set[str]]:
    """What a worker shows after everything has happened once."""
    reader = PrometheusMetricReader()
    meters = MeterProvider([reader])
    told = OpenTelemetry(meters)
    async with SessionManager.open_with(load_settings(database_url=sqlite_url), instruments=told) as manager:
        await manager.create_session()
        told.session_ended(datetime.now(UTC))
        told.session_restored("restored", 0.01)
        told.rows_removed("sessions", 1)
        told.messages_sent("answer", 1)
        told.message_received("answer")

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b'{"method": "tools/call"}'}

        async def send(message: object) -> None: ...

        with told.request({"method": "POST", "scheme": "http", "headers": []}, receive, send) as (took, sent):
            await took()
            await sent({"type": "http.response.start", "status": 503})
        await until(lambda: b"\nmcp_sessions_session_live{" in generate_latest(REGISTRY))
        text = generate_latest(REGISTRY).decode()
    meters.shutdown()
    return samples(text)


def queries() -> Iterator[str]:
    """Yield every query of the dashboard and of the alert rules."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"])
    yield from re.findall(r"expr: \|\n((?: {10}.*\n)+)", RULES.read_text())


def test_dashboard_and_rules_ask_for_what_there_is(scraped: dict[str, set[str]]) -> None:
    """Each metric and each label that a query names is one that a worker shows."""
    labels = set().union(*scraped.values(), AT_PROMETHEUS)
    asked = {name for query in queries() for name in OWN.findall(re.sub(r'"[^"]*"', "", query))}
    assert len(asked & scraped.keys()) > 10
    assert asked <= scraped.keys() | labels
    grouped = {
        each for query in queries() for part in re.findall(r"by \(([^)]*)\)", query) for each in part.split(", ")
    }
    matched = {each for query in queries() for each in re.findall(r"(\w+)=~?\"", query)}
    assert grouped | matched <= labels


def test_all_that_is_shown_is_on_the_dashboard(scraped: dict[str, set[str]]) -> None:
    """No metric of this package is left out of the dashboard."""
    shown = {name.rpartition("_")[0] if name.endswith(("_bucket", "_sum", "_count")) else name for name in scraped}
    shown = {name for name in shown if name.startswith(("mcp_sessions_", "mcp_server_"))}
    text = DASHBOARD.read_text()
    assert [name for name in sorted(shown) if name not in text] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    """Rules, configuration, and the queries of the dashboard as if they were rules, pass Prometheus' own check."""
    rules = [{"record": f"dashboard:{nth}", "expr": query.replace("$job", ".*")} for nth, query in enumerate(queries())]
    as_rules = tmp_path / "dashboard.yml"
    as_rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # YAML is a superset
    for what, file in (("rules", RULES), ("config", DEPLOY / "prometheus" / "prometheus.yml"), ("rules", as_rules)):
        result = subprocess.run(("promtool", "check", what, file), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def scrape(port: int) -> str | None:
    """Return what is shown at a port; None where nobody listens yet."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except httpx2.TransportError:
        return None


@pytest.mark.slow
def test_each_worker_of_serve_answers_for_itself(tmp_path: Path) -> None:
    """With two workers there are two ports, the banner names them, and what was served shows at one of them."""
    first = free_port()
    with serving(tmp_path, "--workers", "2", "--metrics", str(first)) as server:
        assert f"http://127.0.0.1:{first}/metrics to port {first + 1}" in server.output
        poll(lambda: all(scrape(first + nth) for nth in range(2)), seconds=30, waiting_for="the metrics")
        assert httpx2.post(server.endpoint, json=INITIALIZE, headers=[ACCEPT], timeout=30).status_code == 200
        created = sum(
            sample.value
            for nth in range(2)
            for family in text_string_to_metric_families(scrape(first + nth) or "")
            for sample in family.samples
            if sample.name == "mcp_sessions_session_created_total"
        )
        assert created == 1
        began = time.monotonic()
        assert scrape(first)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("place", ["", "0", "65535", "port", "host:", "127.0.0.1:70000", "-1", "1.5"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    """A port that is none, or that leaves none for a second worker, is named."""
    with pytest.raises(ConfigurationError, match="--metrics takes a port from 1 to 65534"):
        metrics_of(place, 2)


def test_a_place_is_a_port_or_an_address_and_one() -> None:
    """By default metrics are for this machine alone."""
    assert metrics_of("9464", 2).ports == range(9464, 9466)
    assert [metrics_of(place, 1).host for place in ("1", "10.0.0.7:1", "[::1]:1")] == ["127.0.0.1", "10.0.0.7", "::1"]


def test_an_app_that_measures_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process has a provider of metrics already, `--metrics` is refused with what to do instead."""
    meters = MeterProvider()
    monkeypatch.setattr(prometheus, "get_meter_provider", lambda: meters)
    with pytest.raises(ConfigurationError, match="leave out --metrics, set MCP_SESSIONS_TELEMETRY=true"):
        metrics_of("9464", 1).check()
    meters.shutdown()
