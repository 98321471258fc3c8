"""`cleanup` and `clear`."""

import json

import pytest

from mcp_sessions import Owner
from tests.cli.conftest import CommandLine


class TestCleanup:
    def test_removes_expired_sessions_only(self, cli: CommandLine) -> None:
        """One run removes what has expired, leaves what lives, and prints how many were removed."""
        live, *expired = (cli.create(tenant_id="acme") for _ in range(4))
        cli.expire(*expired)
        result = cli("cleanup")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "expired sessions removed: 3\n", "")
        assert cli.lives(live)
        assert json.loads(cli("cleanup", "--json").stdout) == {"removed": 0}

    @pytest.mark.slow
    def test_needs_no_terminal(self, sqlite_cli: CommandLine) -> None:
        """A cron job, with nothing on standard input, gets one line on standard output and no progress display."""
        sqlite_cli.expire(sqlite_cli.create())
        result = sqlite_cli.process("cleanup")
        assert (result.returncode, result.stdout, result.stderr) == (0, b"expired sessions removed: 1\n", b"")


class TestClear:
    def test_removes_every_session(self, cli: CommandLine) -> None:
        """With `--yes`, sessions of every tenant go, live or expired, and their number is printed."""
        cli.create(tenant_id="acme")
        cli.expire(cli.create(tenant_id="umbrella"))
        cli.create()
        result = cli("clear", "--yes")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "sessions removed: 3\n", "")
        assert cli("count").stdout == "0\n"
        assert json.loads(cli("clear", "--yes", "--json").stdout) == {"removed": 0}

    def test_removes_in_several_batches(self, sqlite_cli: CommandLine) -> None:
        """More sessions than one transaction removes are all removed."""
        sqlite_cli.create_many(25, Owner())
        result = sqlite_cli("clear", "--yes", MCP_SESSIONS_CLEANUP_BATCH_SIZE="10")
        assert result.stdout == "sessions removed: 25\n"

    def test_refuses_where_nobody_can_be_asked(self, cli: CommandLine) -> None:
        """Without a terminal and without `--yes`, nothing is removed and the exit code is 2."""
        session_id = cli.create()
        result = cli("clear", stdin="y\n")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--yes" in result.stderr
        assert cli.lives(session_id)
