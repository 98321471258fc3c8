"""`stats`: the numbers that an operator looks at first."""

import json

from tests.cli.conftest import CommandLine


def test_shows_the_numbers(cli: CommandLine) -> None:
    """What is live, opened, ended and refused, the last cleanup, the hours and the tenants are all there."""
    ended, _ = cli.create(tenant_id="acme"), cli.create(tenant_id="umbrella")
    cli("terminate", stdin=ended)
    cli("cleanup")
    result = cli("stats")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["live", "now", "1"] in lines
    assert ["expired,", "not", "removed", "yet", "0"] in lines
    assert "0 sessions and 0 events removed, done" in result.stdout
    assert ["opened", "2", "2"] in lines
    assert ["terminated", "1", "1"] in lines
    assert ["opened", "█", "2"] in lines
    assert ["umbrella", "1"] in lines


def test_prints_one_json_document(sqlite_cli: CommandLine) -> None:
    """`--json` prints the same numbers under stable keys."""
    sqlite_cli.create(tenant_id="acme")
    document = json.loads(sqlite_cli("stats", "--json").stdout)
    assert list(document) == [
        *("at", "live", "expired", "last_hour", "last_day", "hours", "tenants", "last_cleanup"),
    ]
    assert (document["live"], document["last_cleanup"]) == (1, None)
    assert document["tenants"] == [{"tenant_id": "acme", "live": 1}]
    assert list(document["last_hour"]) == [
        *("opened", "ended", "terminated", "revoked", "expired", "cleared", "deleted", "refused"),
        "average_life_seconds",
    ]
    assert len(document["hours"]) == 24
    assert document["hours"][-1] == {"ends_at": document["at"], "opened": 1, "ended": 0, "open_at_end": 1}


def test_of_an_empty_database(sqlite_cli: CommandLine) -> None:
    """Where nothing ever happened, that is what it says."""
    result = sqlite_cli("stats", columns=72)
    assert result.exit_code == 0
    assert "never" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 72
