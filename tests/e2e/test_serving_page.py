"""The examples of `docs/how-to/serve.md` and `authenticate.md` do what the pages say."""

import re
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from mcp_sessions import Session, SessionManager
from mcp_sessions.asgi import DurableSessions
from mcp_sessions.cli.app import app as command_line
from tests.support.mcp_client import ACCEPT, INITIALIZE, call
from tests.support.pages import Page
from tests.support.serving import in_session, serving

PAGE = Page("docs/how-to/serve.md")
OWNERS = Page("docs/how-to/authenticate.md")
BEARER = {"authorization": "Bearer alice's token"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, where the example makes its database."""
    monkeypatch.chdir(tmp_path)


async def opened(app: DurableSessions, headers: dict[str, str], path: str = "/mcp") -> Session:
    """Open a session at an app and return it as the database has it."""
    async with app.lifespan():
        network = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=network, base_url="http://127.0.0.1:8000") as http:
            response = await http.post(path, json=INITIALIZE, headers={**dict([ACCEPT]), **headers})
        assert response.status_code == 200
        return await stored(app, response.headers["mcp-session-id"])


async def stored(app: DurableSessions, session_id: str) -> Session:
    """Return a session as the app's database has it."""
    async with SessionManager.open_with(app.settings, scheduled_cleanup=False) as sessions:
        session = await sessions.get_session_metadata(session_id)
    assert session is not None
    return session


async def test_one_line() -> None:
    """The one line makes sessions durable, in the file that it names."""
    session = await opened(PAGE.run_block_with('database_url="sqlite:///notes.db"')["app"], {})
    assert session.owner == type(session.owner)()
    assert Path("notes.db").exists()


async def test_mounted() -> None:
    """The mounted app is served below its prefix, within the host's lifespan."""
    names = PAGE.run_block_with("Mount(")
    async with names["durable"].lifespan():
        network = httpx2.ASGITransport(app=names["app"])
        async with httpx2.AsyncClient(transport=network, base_url="http://127.0.0.1:8000") as http:
            response = await http.post("/notes/mcp", json=INITIALIZE, headers=dict([ACCEPT]))
    await stored(names["durable"], response.headers["mcp-session-id"])


@pytest.mark.parametrize("text", ["class Verifier", "StaticTokenVerifier"])
async def test_bearer_authentication(text: str) -> None:
    """The owner is what the token says; without a token, the app's own 401."""
    session = await opened(OWNERS.run_block_with(text)["app"], BEARER)
    assert (session.owner.tenant_id, session.owner.client_id) == ("acme", "cli-1")
    assert (session.owner.issuer, session.owner.subject) == ("https://issuer.example", "alice")
    with pytest.raises(AssertionError, match="assert 401 == 200"):
        await opened(OWNERS.run_block_with(text)["app"], {})


async def test_own_function() -> None:
    """The owner is what the proxy says; a request that did not come by the proxy gets 403."""
    session = await opened(OWNERS.run_block_with("x-authenticated-user")["app"], {"x-authenticated-user": "alice"})
    assert (session.owner.tenant_id, session.owner.subject) == ("acme", "alice")
    with pytest.raises(AssertionError, match="assert 403 == 200"):
        await opened(OWNERS.run_block_with("x-authenticated-user")["app"], {})


async def test_state_of_ones_own() -> None:
    """The tool gets at the digest of the durable session."""
    app: DurableSessions = PAGE.run_block_with("key_of_my_state")["app"]
    async with app.lifespan():
        network = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=network, base_url="http://127.0.0.1:8000") as http:
            response = await http.post("/mcp", json=INITIALIZE, headers=dict([ACCEPT]))
            session_id = response.headers["mcp-session-id"]
            response = await http.post("/mcp", json=call("key_of_my_state"), headers=in_session(session_id))
        assert (await stored(app, session_id)).digest.hex() in response.text


@pytest.mark.slow
async def test_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The client's example works with the example server."""
    with serving(tmp_path) as server:
        await PAGE.run_block_with("from mcp import Client")["main"](server.endpoint)
    assert "digest" in capsys.readouterr().out


def test_every_example_is_tried() -> None:
    """Each block of Python on the pages is one of those above."""
    assert len(PAGE.blocks("python")) == 4
    assert len(OWNERS.blocks("python")) == 3


def test_options_exist() -> None:
    """Every option in a command of the page is one of that command."""
    commands = re.findall(r"^(?:\w+=\S+ )*mcp-sessions (\w+)(.*)$", PAGE.text, re.MULTILINE)
    assert len(commands) >= 4
    for command, arguments in commands:
        help_text = CliRunner().invoke(command_line, [command, "--help"], env={"COLUMNS": "200"}).stdout
        for option in re.findall(r"--[\w-]+", arguments):
            assert option in help_text
