"""`stats`: the numbers that an operator looks at first."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

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


@pytest.fixture
def _drawing(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have matplotlib leave nothing in the developer's home."""
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp()))


@pytest.mark.usefixtures("_drawing")
@pytest.mark.parametrize("name", ["hours.png", "hours.SVG"])
@pytest.mark.slow
def test_draws_an_image(sqlite_cli: CommandLine, tmp_path: Path, name: str) -> None:
    """`--image` writes a picture of the format that the file's name ends with, beside the numbers."""
    sqlite_cli.create(tenant_id="acme")
    result = sqlite_cli("stats", "--json", "--image", name)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["live"] == 1
    drawn = (tmp_path / name).read_bytes()
    if name.endswith("png"):
        assert drawn.startswith(b"\x89PNG\r\n\x1a\n")
        assert drawn.endswith(b"IEND\xaeB`\x82")
    else:
        assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own


@pytest.mark.usefixtures("_drawing")
@pytest.mark.slow
def test_the_image_shows_the_sessions(sqlite_cli: CommandLine) -> None:
    """The picture tells how many are live; one of an empty database can be drawn too."""
    for live in range(2):
        assert sqlite_cli("stats", "--image", "now.svg").exit_code == 0
        assert f"Sessions open: {live} live at" in Path("now.svg").read_text()
        sqlite_cli.create()


def test_an_image_takes_matplotlib(sqlite_cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, the command ends with 2 and one line that tells how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if there were none
    result = sqlite_cli("stats", "--image", "now.svg")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'mcp-sessions[plot]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("now.svg").exists()


@pytest.mark.usefixtures("_drawing")
@pytest.mark.parametrize(("name", "named"), [("now.gif", ".png or .svg"), ("no/such/folder.svg", "no/such/folder.svg")])
def test_an_image_that_cannot_be_written(sqlite_cli: CommandLine, name: str, named: str) -> None:
    """A format that there is not and a place that there is not end with 2 and one line that names them."""
    result = sqlite_cli("stats", "--image", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
