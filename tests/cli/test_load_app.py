"""What `mcp-sessions serve` finds under a name, and what it says where there is nothing to serve."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mcp_sessions.cli.serve.load_app import AppToServe
from mcp_sessions.errors import ConfigurationError
from tests.cli.conftest import CommandLine
from tests.support import served, served_fast
from tests.support.mcp_client import ACCEPT, INITIALIZE


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules with all kinds of things to serve, and one that does not import."""
    shutil.copyfile(served.__file__, tmp_path / "notes.py")
    shutil.copyfile(served_fast.__file__, tmp_path / "fastnotes.py")
    (tmp_path / "broken.py").write_text("import no_such_package_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("notes", "fastnotes", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("notes", "like notes:app"),
        ("notes.py", "like notes:app"),
        ("some/notes.py", "like some.notes:app"),
        (":app", "like module:app"),
        ("notes:", "like notes:app"),
        ("notes.py:app", "write notes for notes.py"),
        ("nothing:app", "no module nothing in the current folder"),
        ("nothing.here:app", "no module nothing in the current folder"),
        ("notes:nothing", "there is no nothing in the module notes"),
        ("notes:server.nothing", "there is no server.nothing in the module notes"),
        ("notes:number", "of the type int"),
        ("notes:with_argument", "of the type function"),
        ("notes:make_app_later", "of the type coroutine"),
        ("builtins:range", "of the type type"),
    ],
)
def test_says_what_is_wrong_with_a_name(target: str, said: str) -> None:
    """Each mistake is named, with what would be right."""
    with pytest.raises(ConfigurationError) as error:
        AppToServe(target, "127.0.0.1")()
    assert said in str(error.value)


def test_shows_where_a_module_fails() -> None:
    """A module that is there but does not import is its author's to mend: the error is Python's own."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
        AppToServe("broken:app", "127.0.0.1")()


def test_leaves_durable_sessions_alone() -> None:
    """What has durable sessions is served as it is, with the settings of its code."""
    import notes  # type: ignore[import-not-found]  # noqa: PLC0415 - the fixture makes it

    assert AppToServe("notes:durable", "127.0.0.1")() is notes.durable


@pytest.mark.parametrize("target", ["notes:server", "fastnotes:server"])
def test_serves_where_the_settings_say(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """The path of the settings is that of the server's app, not only of the layer around it."""
    monkeypatch.setenv("MCP_SESSIONS_HTTP_PATH", "/here")
    assert AppToServe(target, "127.0.0.1")().path == "/here"


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 421), ("192.0.2.1", 200)])
async def test_tells_the_server_where_it_is_reached(host: str, status: int) -> None:
    """On loopback the SDK refuses requests to other names, against DNS rebinding; elsewhere it takes them."""
    app = AppToServe("notes:server", host)()
    network = httpx2.ASGITransport(app=app)
    async with app.lifespan(), httpx2.AsyncClient(transport=network, base_url="http://notes.example") as http:
        response = await http.post("/mcp", json=INITIALIZE, headers=dict([ACCEPT]))
    assert response.status_code == status


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "notes:app"], ["demo"]], ids=" ".join)
def test_says_what_to_install(sqlite_cli: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Without what the extra `serve` brings, exit code 2 and the command that brings it."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = sqlite_cli(*arguments)
    assert result.exit_code == 2
    assert "pip install 'mcp-sessions[serve]'" in result.stderr


def test_says_what_the_example_needs(sqlite_cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example needs the SDK; without it, the same."""
    for name in ("mcp.server.mcpserver", "mcp_sessions.examples.server"):
        monkeypatch.setitem(sys.modules, name, None)
    result = sqlite_cli("serve")
    assert result.exit_code == 2
    assert "pip install 'mcp-sessions[serve]'" in result.stderr
