"""`mcp-sessions` as a process of its own: pipes, terminals, signals, and the help."""

import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from mcp_sessions import Owner
from mcp_sessions.digests import digest_of, short_digest
from tests.cli.conftest import CommandLine
from tests.support.processes import poll

COMMANDS = [
    ["serve"],
    ["demo"],
    ["list"],
    ["show"],
    ["count"],
    ["terminate"],
    ["audit"],
    ["stats"],
    ["cleanup"],
    ["clear"],
    ["db", "upgrade"],
    ["db", "downgrade"],
    ["db", "current"],
    ["db", "check"],
]


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Yield both ends of a terminal: the person's and the program's."""
    person, program = os.openpty()
    try:
        yield person, program
    finally:
        os.close(person)
        os.close(program)


def shown_on(person: int) -> str:
    """Return what a terminal shows that no program writes to any more."""
    os.set_blocking(person, False)
    shown = b""
    with suppress(BlockingIOError):
        while part := os.read(person, 65536):
            shown += part
    return shown.decode()


def has_open(process: "subprocess.Popen[bytes]", file: str) -> bool:
    """Tell whether a process has a file open."""
    return any(each.path == file for each in psutil.Process(process.pid).open_files())


def at_a_terminal(
    cli: CommandLine, *arguments: str, typed: str, ready: Callable[[int], bool] = lambda _: True
) -> tuple[int, str, str, str]:
    """Run a command whose standard input is a terminal; return exit code, output, messages and what was echoed."""
    with (
        terminal() as (person, program),
        subprocess.Popen(
            [sys.executable, "-m", "mcp_sessions", *arguments],
            env=cli.environment(),
            stdin=program,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process,
    ):
        try:
            poll(lambda: ready(person), seconds=20, waiting_for="the command to ask")
            os.write(person, typed.encode())
            output, messages = process.communicate(timeout=20)
        finally:
            process.kill()
        cli.check_secrecy((output + messages).decode())
        return process.returncode, output.decode(), messages.decode(), shown_on(person)


class TestConfirmation:
    COMMANDS = (
        ["clear", "--json"],
        ["terminate", "--tenant", "acme", "--json"],
        ["db", "downgrade", "base"],
    )

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    @pytest.mark.slow
    def test_names_the_database_and_obeys_a_yes(self, sqlite_cli: CommandLine, command: list[str]) -> None:
        """The question goes to standard error and says which database is meant; after a yes, the command does it."""
        session_id = sqlite_cli.create(tenant_id="acme")
        code, output, messages, _ = at_a_terminal(sqlite_cli, *command, typed="y\n")
        assert code == 0
        assert sqlite_cli.url in messages.replace("\n", "")
        if "--json" in command:
            assert list(json.loads(output).values()) == [1]
        assert not sqlite_cli.lives(session_id)

    @pytest.mark.parametrize("typed", ["n\n", "\n", "\x04"], ids=["no", "enter", "end of input"])
    @pytest.mark.slow
    def test_does_nothing_after_anything_else(self, sqlite_cli: CommandLine, typed: str) -> None:
        """No, nothing at all and the end of input are no yes: exit code 1, nothing printed, nothing done."""
        session_id = sqlite_cli.create()
        code, output, messages, _ = at_a_terminal(sqlite_cli, "clear", typed=typed)
        assert (code, output) == (1, "")
        assert "Traceback" not in messages
        assert sqlite_cli.lives(session_id)


class TestStandardInput:
    @pytest.mark.slow
    def test_may_be_a_pipe(self, cli: CommandLine) -> None:
        """A session id piped into a process ends its session."""
        session_id = cli.create(tenant_id="acme")
        result = cli.process("terminate", "-", stdin=session_id.encode() + b"\n")
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.decode() == f"session ended: {short_digest(digest_of(session_id))}\n"
        assert cli.process("terminate", "-", stdin=session_id.encode()).returncode == 1

    @pytest.mark.slow
    def test_may_be_a_terminal_that_shows_no_secret(self, sqlite_cli: CommandLine) -> None:
        """Without a pipe the id is asked for, and is not echoed as it is typed."""
        session_id = sqlite_cli.create(tenant_id="acme")

        def echoes_nothing(person: int) -> bool:
            return not termios.tcgetattr(person)[3] & termios.ECHO

        code, output, messages, echoed = at_a_terminal(
            sqlite_cli, "show", "--json", typed=f"{session_id}\n", ready=echoes_nothing
        )
        assert code == 0
        assert json.loads(output)["tenant_id"] == "acme"
        assert "Session id" in messages
        assert session_id[:4] not in echoed

    def test_may_be_empty(self, sqlite_cli: CommandLine) -> None:
        """A command that has nobody to ask does not wait: exit code 2 and one line."""
        result = sqlite_cli.process("show")
        assert result.returncode == 2
        assert result.stderr.startswith(b"Error: standard input is empty")


class TestOutput:
    @pytest.mark.slow
    def test_shows_progress_on_a_terminal(self, sqlite_cli: CommandLine) -> None:
        """Where standard error is a terminal, a removal shows how far it is; standard output stays one document."""
        sqlite_cli.create_many(3, Owner(tenant_id="acme"))
        with terminal() as (person, program):
            result = sqlite_cli.process("clear", "--yes", "--json", stderr=program, TERM="xterm")
            shown = shown_on(person)
        assert json.loads(result.stdout) == {"removed": 3}
        assert "removing: " in shown

    @pytest.mark.slow
    def test_may_be_cut_short(self, sqlite_cli: CommandLine) -> None:
        """A reader that goes away early, like `head`, causes no traceback."""
        sqlite_cli.create_many(300, Owner(tenant_id="acme" * 100))
        with subprocess.Popen(
            [sys.executable, "-m", "mcp_sessions", "list", "--all", "--json"],
            env=sqlite_cli.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr is not None
            messages = process.stderr.read()
            process.wait(timeout=20)
        assert messages == b""

    @pytest.mark.parametrize(
        "command",
        [["list"], ["list", "--json"], ["count"], ["audit"], ["audit", "--csv"], ["stats"], ["--version"]],
        ids=" ".join,
    )
    @pytest.mark.slow
    def test_may_meet_a_full_disk_or_nobody(self, sqlite_cli: CommandLine, command: list[str]) -> None:
        """A full disk is 5 and a line that says so, a reader that is gone 141 and silence: neither is a "no"."""
        sqlite_cli.create(tenant_id="acme")
        with Path("/dev/full").open("wb") as full:
            result = sqlite_cli.process_to(full, *command)
        assert (result.returncode, result.stderr.count(b"\n")) == (5, 1)
        assert result.stderr.startswith(b"Error: what was to be printed could not be written: No space left")
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as nobody:
            result = sqlite_cli.process_to(nobody, *command)
        assert (result.returncode, result.stderr) == (141, b"")

    @pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["count"], ["audit", "--csv"], ["stats"]])
    @pytest.mark.slow
    def test_is_no_empty_answer_where_there_is_none(self, sqlite_cli: CommandLine, command: list[str]) -> None:
        """Standard output that is closed is 5, too, and a line that says so; what only reports is done all the same."""
        sqlite_cli.create(tenant_id="acme")
        closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "mcp_sessions"]
        run = partial(
            subprocess.run, env=sqlite_cli.environment(), stderr=subprocess.PIPE, text=True, check=False, timeout=20
        )
        result = run([*closed, *command])
        assert (result.returncode, result.stderr.count("\n")) == (5, 1)
        assert result.stderr.startswith("Error: what was to be printed could not be written: Bad file descriptor")
        result = run([*closed, "clear", "--yes"])
        assert (result.returncode, result.stderr) == (0, "")

    @pytest.mark.slow
    def test_may_have_no_room_for_messages_either(self, sqlite_cli: CommandLine) -> None:
        """Where standard error is on the same full disk, the exit code still tells."""
        with Path("/dev/full").open("wb") as full:
            assert sqlite_cli.process_to(full, "count", stderr=full).returncode == 5

    @pytest.mark.slow
    def test_survives_a_terminal_without_the_letters(self, sqlite_cli: CommandLine) -> None:
        """What an ASCII terminal cannot show comes as an escape, not as a failure."""
        sqlite_cli.create(tenant_id="日本")
        result = sqlite_cli.process("list", PYTHONIOENCODING="ascii")
        assert (result.returncode, result.stderr) == (0, b"")
        assert rb"\u65e5\u672c" in result.stdout

    @pytest.mark.slow
    def test_ends_quietly_on_ctrl_c(self, sqlite_cli: CommandLine) -> None:
        """A cleanup that waits for another one to end can be interrupted: exit code 130, no traceback."""
        sqlite_cli.sql(
            """
            INSERT INTO cleanup_runs (run_id, worker, started_at, held_until_at, running_slot, sessions_removed)
            SELECT 'other', 'other', moment, moment, 1, 0
            FROM (SELECT strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 hour') AS moment)
            """
        )
        database = sqlite_cli.url.removeprefix("sqlite:///")
        with terminal() as (person, program):
            with subprocess.Popen(
                [sys.executable, "-m", "mcp_sessions", "cleanup"],
                env={**sqlite_cli.environment(), "TERM": "xterm"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=program,
            ) as process:
                seen: list[str] = []

                def displays_progress() -> bool:
                    seen.append(shown_on(person))
                    return "removing" in "".join(seen)

                try:
                    poll(displays_progress, seconds=20, waiting_for="the progress display")
                    poll(lambda: has_open(process, database), seconds=20, waiting_for="the cleanup to begin")
                    process.send_signal(signal.SIGINT)
                    output, _ = process.communicate(timeout=20)
                finally:
                    process.kill()
            assert (process.returncode, output) == (130, b"")
            assert "Traceback" not in "".join(seen) + shown_on(person)


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    def test_of_each_command_has_an_example(self, sqlite_cli: CommandLine, command: list[str]) -> None:
        """Each command explains itself, shows an example of itself, and takes the common options."""
        result = sqlite_cli(*command, "--help")
        assert result.exit_code == 0
        assert "Examples:" in result.stdout
        assert f"mcp-sessions {' '.join(command)}" in result.stdout.partition("Examples:")[2]
        assert "--database-url" in result.stdout
        assert sqlite_cli(*command, "-h").stdout == result.stdout

    @pytest.mark.parametrize("arguments", [[], ["--help"]], ids=["nothing", "--help"])
    def test_stands_where_no_command_is_named(self, sqlite_cli: CommandLine, arguments: list[str]) -> None:
        """`mcp-sessions` alone prints the help: every command and the exit codes."""
        output = sqlite_cli(*arguments).stdout
        assert all(command[0] in output for command in COMMANDS)
        assert "Exit codes:" in output
        assert all(f"{code}: " in output for code in range(5))

    def test_is_offered_for_wrong_usage(self, sqlite_cli: CommandLine) -> None:
        """An unknown command or option ends with 2 and names it on standard error."""
        for arguments, named in ((["nonsense"], "nonsense"), (["list", "--nonsense"], "--nonsense")):
            result = sqlite_cli(*arguments)
            assert (result.exit_code, result.stdout) == (2, "")
            assert named in result.stderr


@pytest.mark.slow
def test_the_version_is_that_of_the_package(sqlite_cli: CommandLine) -> None:
    """`--version` needs no database and prints one line."""
    result = sqlite_cli.process("--version", MCP_SESSIONS_DATABASE_URL="nonsense")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"mcp-sessions 0.")


@pytest.mark.slow
def test_the_installed_command_is_the_same(sqlite_cli: CommandLine) -> None:
    """The script `mcp-sessions` that installing makes runs these commands."""
    script = Path(sys.executable).with_name("mcp-sessions")
    result = subprocess.run(
        [script, "count"], env=sqlite_cli.environment(), capture_output=True, timeout=30, check=True
    )
    assert result.stdout == b"0\n"
