"""The tutorial, done by a reader who types what it says into three terminals."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.distributions import build
from tests.support.pages import ROOT, Page
from tests.support.processes import accepts, free_port, poll

PAGE = Page("docs/tutorial.md")
HELLO = re.compile(r"hello from process \d+")
PROMPT = "Enter calls, q ends: "


class Reader:
    """A folder, the blocks of the page in their order, and what terminals show."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.python = iter(self._blocks("python"))
        self.shell = iter(self._blocks("sh"))
        # The wheel of this checkout stands for its folder; its dependencies are those of the tests.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "CHECKOUT": str(next(wheels.glob("*.whl"))),
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _blocks(self, language: str) -> list[str]:
        return [block.replace("8000", str(self.port)) for block in PAGE.blocks(language)]

    def run(self, commands: str) -> str:
        """Run commands to their end, and return what they print."""
        result = subprocess.run(
            ("sh", "-e", "-c", commands),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    @contextlib.contextmanager
    def terminal(self, commands: str) -> Iterator["Terminal"]:
        """Run commands in a terminal of their own; nothing of them is left in the end."""
        output = self.folder / f"terminal-{len([*self.folder.glob('terminal-*')])}"
        with output.open("wb") as shown:
            process = subprocess.Popen(
                ("sh", "-c", commands),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=shown,
                stderr=shown,
                text=True,
                start_new_session=True,
            )
        try:
            yield Terminal(process, output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Serve in the first terminal, and stop with Ctrl-C."""
        with self.terminal(f". .venv/bin/activate\n{command}") as terminal:
            poll(lambda: accepts(self.port), seconds=60, waiting_for=f"the server\n{terminal.text}")
            yield
            terminal.interrupt()


class Terminal:
    """What runs in a terminal, and what it shows."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def text(self) -> str:
        """All that it shows."""
        return self._output.read_text()

    def type(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def call(self) -> str:
        """Press Enter at the client, and return what it says."""
        self._prompts(1)
        before = self.text.count(PROMPT)
        self.type("")
        self._prompts(before + 1)
        return self.text.split(PROMPT)[-2].strip()

    def _prompts(self, count: int) -> None:
        poll(lambda: self.text.count(PROMPT) >= count, seconds=30, waiting_for="the client's prompt")

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        os.killpg(self._process.pid, signal.SIGINT)
        self.ended()

    def ended(self) -> None:
        """Wait for the end."""
        self._process.wait(timeout=30)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Somebody at the page's beginning, in an empty folder."""
    folder = tmp_path / "notes"
    folder.mkdir()
    wheels = tmp_path / "wheels"
    build(ROOT, wheels, "wheel")
    return Reader(folder, wheels)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    """A restart breaks the client of the plain server, none of the durable one, until an operator ends its session."""
    reader.run(next(reader.shell))
    (packages,) = reader.folder.glob(".venv/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    server, client = reader.folder / "notes.py", reader.folder / "client.py"
    server.write_text(next(reader.python))
    client.write_text(next(reader.python))
    serve, talk, serve_by_two, look, end = reader.shell

    with contextlib.ExitStack() as stack:
        with reader.serving(serve):
            plain = stack.enter_context(reader.terminal(talk))
            assert HELLO.fullmatch(plain.call())
        with reader.serving(serve):
            assert [f"{plain.call()}\n"] == PAGE.blocks("text")
            plain.type("q")
            plain.ended()

    last_line = "app = server.streamable_http_app()\n"
    assert server.read_text().endswith(last_line)
    server.write_text(server.read_text().replace(last_line, next(reader.python)))
    with contextlib.ExitStack() as stack:
        with reader.serving(serve):
            durable = stack.enter_context(reader.terminal(talk))
            said = [durable.call()]
        with reader.serving(serve):
            said.append(durable.call())
        with reader.serving(serve_by_two):
            said.append(durable.call())
            listed, audited = reader.run(look).splitlines()[1::2]
            assert " created " in audited
            assert listed.split()[0] in audited
            reader.run(f". .venv/bin/activate\nexport MCP_SESSIONS_DATABASE_URL=sqlite:///notes.db\n{end}")
            assert durable.call() == "failed: Session not found"
    assert all(HELLO.fullmatch(each) for each in said)
    assert len(set(said)) == 3


def test_every_block_is_tried() -> None:
    """The page has no more blocks than the test above runs."""
    assert {language: len(PAGE.blocks(language)) for language in ("sh", "python", "text")} == {
        "sh": 6,
        "python": 3,
        "text": 1,
    }
