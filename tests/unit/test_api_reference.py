"""`scripts/docs` makes the API reference."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT

PACKAGES = ("mcp_sessions", "mcp_sessions.asgi", "mcp_sessions.mcp", "mcp_sessions.fastmcp", "mcp_sessions.keyvalue")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of this checkout."""
    folder = tmp_path_factory.mktemp("reference")
    command = (sys.executable, ROOT / "scripts" / "api_reference.py", folder)
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.slow
def test_every_public_name_is_in_the_reference(reference: Path, package: str) -> None:
    """The page of a package has an entry for each name that the package announces."""
    page = (reference / f"{package.replace('.', '/')}.html").read_text()
    entries = set(re.findall(r'<section id="(\w+)">', page))
    assert entries == set(importlib.import_module(package).__all__)


@pytest.mark.slow
def test_it_is_alike_each_time(reference: Path) -> None:
    """No page shows an address in memory."""
    assert [page for page in reference.rglob("*.html") if re.search(r"\bat 0x[0-9a-f]+", page.read_text())] == []
