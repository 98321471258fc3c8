"""What a terminal gets: tables that fit it, help with whole names, completion, and a start that nobody waits for."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.cells import cell_len
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from mcp_sessions.cli.app import app
from mcp_sessions.cli.runner import CommandLine as Commands
from mcp_sessions.digests import digest_of, short_digest
from mcp_sessions.records.events import EVENT_KINDS
from tests.cli.conftest import CommandLine

WIDE = "\u4f1a\u793e" * 20
LONG = "a-client-with-a-name-that-goes-on-and-on"


def commands() -> Iterator[tuple[str, ...]]:
    """Return the words that name each command, the groups among them."""
    group = get_command(app)
    assert isinstance(group, Commands)
    yield ()
    for name, command in group.commands.items():
        yield (name,)
        if isinstance(command, TyperGroup):
            yield from ((name, each) for each in command.commands)


@pytest.mark.parametrize("command", ["list", "audit"])
@pytest.mark.parametrize("columns", [72, 80])
def test_a_narrow_terminal_gets_a_line_each_with_the_digest_whole(
    sqlite_cli: CommandLine, command: str, columns: int
) -> None:
    """Names and times are cut short before a digest is: one line a row, none wider than the terminal."""
    ids = [sqlite_cli.create(tenant_id=WIDE, client_id=LONG, subject="ada@example.org") for _ in range(2)]
    _, *lines = sqlite_cli(command, columns=columns).stdout.splitlines()
    assert len(lines) == 2
    assert max(map(cell_len, lines)) <= columns
    for line, session_id in zip(lines, reversed(ids), strict=True):
        assert short_digest(digest_of(session_id)) in line.split()
        assert line.count("\u2026") == 3 if command == "list" else line.count("\u2026") >= 2


def test_a_wide_terminal_gets_all(sqlite_cli: CommandLine) -> None:
    """Where a table fits, nothing in it is cut short."""
    sqlite_cli.create(tenant_id=WIDE, client_id=LONG, subject="ada@example.org")
    for command in ("list", "audit"):
        output = sqlite_cli(command, columns=250).stdout
        assert all(each in output for each in (WIDE, LONG, "ada@example.org"))


@pytest.mark.parametrize("columns", [40, 71])
def test_a_tiny_terminal_gets_a_block_for_each_event(sqlite_cli: CommandLine, columns: int) -> None:
    """Where a table has no room, `audit` prints a line for each fact, and cuts nothing off."""
    sqlite_cli.create(tenant_id="Q" * 50)
    output = sqlite_cli("audit", columns=columns).stdout
    assert max(map(len, output.splitlines())) <= columns
    assert output.count("Q") == 50


@pytest.mark.parametrize("columns", [72, 80, 120])
def test_show_prints_the_digest_on_one_line(sqlite_cli: CommandLine, columns: int) -> None:
    """All 64 digits stand together, to be copied."""
    digest = digest_of(sqlite_cli.create(tenant_id="acme")).hex()
    assert digest in sqlite_cli("show", digest[:12], columns=columns).stdout


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_shows_the_names_of_options_whole(sqlite_cli: CommandLine, command: tuple[str, ...]) -> None:
    """At 80 columns no option, metavar or line of a command's help is cut off, and the columns have room for words."""
    result = sqlite_cli(*command, "--help", columns=80)
    assert result.exit_code == 0
    assert "\u2026" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    named = get_command(app)
    for name in command:
        assert isinstance(named, TyperGroup)
        named = named.commands[name]
    assert all(option in result.stdout.split() for each in named.params for option in each.opts if "--" in option)


def test_reloading_many_workers_is_refused(sqlite_cli: CommandLine) -> None:
    """`--reload` with several workers is a wrong argument, and says so before anything starts."""
    result = sqlite_cli("serve", "--reload", "--workers", "2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "leave out --workers" in result.stderr


def test_dash_v_prints_the_version(sqlite_cli: CommandLine) -> None:
    """`-V` is `--version`."""
    assert sqlite_cli("-V").stdout == sqlite_cli("--version").stdout != ""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["audit", "--kind", ""], list(EVENT_KINDS)),
        (["audit", "--kind", "re"], ["revoked", "refused"]),
        (["serve", "--log-format", ""], ["text", "json"]),
        (["serve", "--log-level", "w"], ["warning"]),
        (["terminate", "--reason", "r"], ["revoked"]),
    ],
)
def test_a_shell_completes_what_an_option_takes(words: list[str], completed: list[str]) -> None:
    """Kinds of events, forms and levels of the log, and the usual end reasons are completed."""
    line = ["mcp-sessions", *words]
    environment = {
        "_MCP_SESSIONS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    result = CliRunner().invoke(app, [], env=environment, prog_name="mcp-sessions")
    assert result.stdout.split() == completed


def test_help_loads_neither_database_nor_server() -> None:
    """Whoever asks for help does not wait for what takes its time to load."""
    slow = {
        "sqlalchemy",
        "alembic",
        "asyncpg",
        "aiosqlite",
        "pydantic_settings",
        "starlette",
        "uvicorn",
        "mcp",
    }
    code = (
        "import sys\nfrom mcp_sessions.cli import main\n"
        "try:\n main()\nexcept SystemExit as end:\n assert not end.code\n"
        f"print(sorted({slow!r} & sys.modules.keys()), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "serve", "--help"], capture_output=True, text=True, timeout=30, check=True
    )
    assert "--log-format" in result.stdout
    assert result.stderr.strip() == "[]"
