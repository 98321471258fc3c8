"""The examples of `docs/cli.md`, run one after the other by a shell, print what the page says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


class Example(NamedTuple):
    """A command of the page, and what it prints."""

    command: str
    output: str


def examples(page: str) -> Iterator[Example]:
    """Return the examples of a page; a block of Python is one that prints nothing."""
    for language, block in re.findall(r"^```(console|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if language == "python":
            yield Example(f"python - <<'END'\n{block}END", "")
        else:
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Example(command, output)


def printed(commands: list[str], folder: Path) -> list[str]:
    """Run the commands in one shell, away from any terminal, and return what each of them prints."""
    mark = "------ next example"
    script = folder / "examples.sh"
    script.write_text("exec 2>&1\n" + "".join(f"{command}\necho '{mark}'\n" for command in commands))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["/bin/sh", script],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=170,
        check=True,
    )
    return result.stdout.decode().split(f"{mark}\n")[:-1]


def stable(text: str) -> str:
    """Return what two runs have in common: not the times, the cursors, the newest revision and the padding."""
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "<ISO time>", text)
    text = re.sub(r'(--cursor |"next_cursor": ")[\w=-]+', r"\1<cursor>", text)
    return re.sub(r"\b00\d\d\b", "<revision>", text)


@pytest.mark.timeout(180)  # one process an example
def test_the_examples_print_what_the_page_says(tmp_path: Path) -> None:
    """Every example, run in the page's order on a new SQLite file, prints what stands below it."""
    expected = list(examples(PAGE.read_text()))
    assert len(expected) > 15
    outputs = printed([each.command for each in expected], tmp_path)
    actual = [Example(each.command, output) for each, output in zip(expected, outputs, strict=True)]
    assert [Example(each.command, stable(each.output)) for each in actual] == [
        Example(each.command, stable(each.output)) for each in expected
    ]
