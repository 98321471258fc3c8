"""`docs/reference/settings.md` lists the settings there are, with defaults, bounds and what their docstrings say."""

import ast
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.settings import Settings, load

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1)}
HEAD = "| setting | environment variable | default | must be | meaning |\n|---|---|---|---|---|\n"
EXTREMES = (("'int'", (-1, 10**30)), ("timedelta", (-timedelta.resolution, timedelta.max)))


def docstrings(kind: type[BaseSettings]) -> dict[str, str]:
    """Return the text below each field of a class, in one line of Markdown."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(field.target, ast.Name):
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = " ".join(str(text.value.value).split()).replace("``", "`")
    return found


def shown(default: Any) -> str:
    """Return a default as one would write it into the environment."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, timedelta):
        unit = next(unit for unit in UNITS if default % UNITS[unit] == timedelta(0))
        return f"`{default // UNITS[unit]}{unit}`"
    return f"`{default}`"


def bounds(kind: type[BaseSettings], name: str) -> str:
    """Return what the settings say of a number or duration that is too small, and of one that is too large."""
    values = next((values for written, values in EXTREMES if written in str(kind.model_fields[name].annotation)), ())
    said: list[str] = []
    for value in values:
        try:
            load(kind, {name: value})
        except ConfigurationError as error:
            said += re.findall(rf"^{name} \(\w+\) must be (.+)$", str(error))
    return " and ".join(dict.fromkeys(said))


def table(kind: type[BaseSettings]) -> str:
    """Return the table of a class of settings."""
    prefix, meanings = kind.model_config.get("env_prefix", ""), docstrings(kind)
    return HEAD + "".join(
        f"| `{name}` | `{prefix}{name.upper()}` | {shown(field.default)} | {bounds(kind, name)} | {meanings[name]} |\n"
        for name, field in kind.model_fields.items()
    )


@pytest.mark.parametrize("kind", [Settings, HttpSettings])
def test_the_page_tells_what_the_code_says(kind: type[BaseSettings]) -> None:
    """Names, variables, defaults, bounds and meanings are those of the code; a difference shows the new table."""
    page = PAGE.read_text()
    assert table(kind) in page, f"docs/reference/settings.md needs this table:\n\n{table(kind)}"


def test_the_page_knows_no_other_setting() -> None:
    """Every row of the page's tables is a setting of the code."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `") and "MCP_SESSIONS_" in line]
    assert len(rows) == len(Settings.model_fields) + len(HttpSettings.model_fields)
