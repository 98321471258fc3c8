"""The examples of `docs/reference/cli.md`, run one after the other, print what the page says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from mcp_sessions.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


class Example(NamedTuple):
    """A command of the page, and what it prints."""

    command: str
    output: str


def examples(page: str) -> Iterator[Example]:
    """Return the examples of a page; a block of Python is one that prints nothing."""
    for language, block in re.findall(r"^```(console|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if language == "python":
            yield Example(block, "")
        else:
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Example(command, output)


def printed(command: str, environment: dict[str, str | None]) -> str:
    """Run an example in this process, away from any terminal, as a shell would; return what it prints."""
    if command.startswith("import "):
        exec(compile(command, PAGE, "exec"), {"__name__": "example"})  # noqa: S102 - our own page
    elif found := re.fullmatch(r"export (\w+)=(\S+)", command):
        environment[found[1]] = found[2]
    else:
        found = re.fullmatch(r"(?:echo (\S+) \| )?mcp-sessions (.*?)(?: > (\S+))?", command)
        assert found, command
        result = CliRunner().invoke(app, shlex.split(found[2]), input=f"{found[1] or ''}\n", env=environment)
        if found[3] is None:
            return result.output
        Path(found[3]).write_text(result.stdout)
    return ""


def stable(text: str) -> str:
    """Return what two runs have in common: not the times, the cursors, the newest revision and the padding."""
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "<ISO time>", text)
    text = re.sub(r'(--cursor |"next_cursor": ")[\w=-]+', r"\1<cursor>", text)
    return re.sub(r"\b00\d\d\b", "<revision>", text)


@pytest.mark.slow
def test_the_examples_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example, run in the page's order on a new SQLite file, prints what stands below it."""
    monkeypatch.chdir(tmp_path)
    environment: dict[str, str | None] = {"COLUMNS": None}
    expected = list(examples(PAGE.read_text()))
    assert len(expected) > 15
    actual = [Example(each.command, printed(each.command, environment)) for each in expected]
    assert [Example(each.command, stable(each.output)) for each in actual] == [
        Example(each.command, stable(each.output)) for each in expected
    ]
