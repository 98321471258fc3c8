"""The examples of `docs/how-to/keep-state.md` do what the page says."""

import base64
import re
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from mcp_sessions import ConfigurationError
from tests.http.test_handles import NewClient
from tests.support.asgi import browsing
from tests.support.mcp_client import RawClient

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "keep-state.md"
SDK, FASTMCP, ALONE, KEY_VALUES, ONCE = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, where the examples make their databases."""
    monkeypatch.chdir(tmp_path)


def app_of(example: str) -> Any:
    """Run an example and return its app."""
    names: dict[str, Any] = {"__name__": "example"}
    sys.modules["example"] = type(sys)("example")  # where the SDKs look up annotations
    try:
        exec(compile(example, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    finally:
        del sys.modules["example"]
    return names["app"]


@pytest.mark.parametrize("example", [SDK, FASTMCP], ids=["sdk", "fastmcp"])
async def test_a_shop(example: str) -> None:
    """An old and a new client fill carts, each that of its session, also after a restart."""
    old = handle = None
    for item in ("apples", "pears"):
        app = app_of(example)
        async with app.lifespan(), browsing(app) as browser:
            if old is None or handle is None:
                old, handle = RawClient(browser), await NewClient(browser).created()
                await old.initialize()
            await old.at(browser).call("add_item", item=f"old {item}")
            answer = await NewClient(browser).tool("add_item", session=handle, item=f"new {item}")
            assert answer["structuredContent"]["result"][-1] == f"new {item}"
    assert answer["structuredContent"]["result"] == ["new apples", "new pears"]


async def test_the_state_alone() -> None:
    """The example of the manager stores, changes and removes values."""
    imports, _, body = ALONE.partition("\n\n")
    names: dict[str, Any] = {}
    exec(f"{imports}\n\nasync def example():\n{indent(body, '    ')}\n    return cart, visits, everything", names)  # noqa: S102
    assert await names["example"]() == (["apples"], 1, {"visits": 1})


async def test_a_key_value_store() -> None:
    """What a client of FastMCP's own state stored is there after a restart."""
    client = None
    for _ in range(2):
        app = app_of(KEY_VALUES)
        async with app.lifespan(), browsing(app) as browser:
            if client is None:
                client = RawClient(browser)
                await client.initialize()
                await client.call("remember", text="of apples")
            assert await client.at(browser).call("recall") == "of apples"


def test_a_till(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example makes a server, once there are keys."""
    with pytest.raises(ConfigurationError, match="encryption_keys"):
        exec(ONCE, {})  # noqa: S102 - our own page
    monkeypatch.setenv("MCP_SESSIONS_ENCRYPTION_KEYS", base64.b64encode(bytes(32)).decode())
    exec(ONCE, {})  # noqa: S102 - our own page


def test_links_lead_somewhere() -> None:
    """Each page that is linked to is there, and so are the parts of it."""
    for page, part in re.findall(r"\]\(([\w.]+\.md)(?:#([\w-]+))?\)", PAGE.read_text()):
        text = (PAGE.parent / page).read_text()
        parts = [each.lower().replace(" ", "-") for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
        assert not part or part in parts
