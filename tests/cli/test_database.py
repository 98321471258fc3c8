"""`db upgrade`, `db downgrade`, `db current`, `db check`, and what other commands say of a wrong database."""

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from mcp_sessions import SessionManager
from mcp_sessions.db.schema.revisions import head_revision
from tests.cli.conftest import CommandLine
from tests.support.postgres import PostgresServer
from tests.support.states import opened

SESSION_COMMANDS = [["list"], ["show", "abc"], ["count"], ["terminate", "abc"], ["cleanup"], ["clear", "--yes"]]

VIEWS = ["active_sessions", "session_history", "tenant_activity"]
MADE = [
    *VIEWS,
    "sessions_created",
    "sessions_deleted",
    "sessions_cleanup_follows_expiry",
    "session_events_append_only",
]
"""What both engines have besides tables."""


def set_revision(cli: CommandLine, revision: str) -> None:
    """Make the database say that it is at a revision."""
    cli.sql(f"UPDATE mcp_sessions_alembic_version SET version_num = '{revision}'")


def run_script(url: str, script: str) -> None:
    """Run a script of many statements, as the database's own shell would."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)
    else:
        asyncio.run(run_script_on_postgres(url, script))


async def run_script_on_postgres(url: str, script: str) -> None:
    """Run a script of many statements on Postgres."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


class TestUpgrade:
    def test_creates_the_tables(self, empty_cli: CommandLine) -> None:
        """An empty database is brought to the newest revision, after which the commands work; again, it is no work."""
        result = empty_cli("db", "upgrade")
        assert (result.exit_code, result.stdout) == (0, f"migrated from none to {head_revision()}\n")
        assert empty_cli("count").stdout == "0\n"
        assert empty_cli("db", "upgrade").stdout == f"at {head_revision()} already\n"

    def test_prints_one_json_document(self, empty_sqlite_url: str) -> None:
        """`--json` prints the revision before and the one after, of an upgrade and of a downgrade."""
        cli, head = CommandLine(empty_sqlite_url), head_revision()
        assert json.loads(cli("db", "upgrade", "--json").stdout) == {"before": None, "after": head}
        assert json.loads(cli("db", "downgrade", "base", "--yes", "--json").stdout) == {"before": head, "after": None}

    def test_stops_at_a_revision(self, empty_cli: CommandLine) -> None:
        """A revision as the argument is how far the upgrade goes."""
        assert empty_cli("db", "upgrade", "0001").stdout == "migrated from none to 0001\n"
        assert empty_cli("db", "current").exit_code == 4
        assert empty_cli("db", "upgrade").stdout == f"migrated from 0001 to {head_revision()}\n"

    def test_prints_sql_that_makes_the_same_tables(self, empty_cli: CommandLine) -> None:
        """`--sql` runs nothing; what it prints, given to the database's own shell, passes `db check`."""
        script = empty_cli("db", "upgrade", "--sql").stdout
        assert empty_cli("db", "current").stdout == f"none, needed: {head_revision()}\n"
        run_script(empty_cli.url, script)
        assert empty_cli("db", "check").exit_code == 0

    def test_names_the_revisions_there_are(self, empty_cli: CommandLine) -> None:
        """An unknown revision ends with 2 and a line with those that are known; nothing is done."""
        result = empty_cli("db", "upgrade", "9999")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "9999" in result.stderr
        assert head_revision() in result.stderr
        assert result.stderr.count("\n") == 1


class TestDowngrade:
    def test_goes_down_and_up_again(self, cli: CommandLine) -> None:
        """A downgrade keeps sessions that the lower revision can hold; to `base` it removes the tables."""
        session_id = cli.create(tenant_id="acme")
        assert cli("db", "downgrade", "0001", "--yes").stdout == f"migrated from {head_revision()} to 0001\n"
        cli("db", "upgrade")
        assert cli.lives(session_id)
        assert cli("db", "downgrade", "base", "--yes").stdout == f"migrated from {head_revision()} to none\n"
        cli("db", "upgrade")
        assert not cli.lives(session_id)

    def test_refuses_where_nobody_can_be_asked(self, sqlite_cli: CommandLine) -> None:
        """Without a terminal and without `--yes`, the database stays as it is and the exit code is 2."""
        result = sqlite_cli("db", "downgrade", "base", stdin="y\n")
        assert (result.exit_code, result.stdout) == (2, "")
        assert sqlite_cli("db", "current").exit_code == 0

    def test_needs_a_revision(self, sqlite_cli: CommandLine) -> None:
        """There is no default to how far down: without the argument, the exit code is 2."""
        assert sqlite_cli("db", "downgrade", "--yes").exit_code == 2
        assert sqlite_cli("db", "downgrade", "9999", "--yes").exit_code == 2

    def test_takes_steps(self, cli: CommandLine) -> None:
        """A number of steps with a minus goes that far down; more than there are is refused with 2."""
        assert cli("db", "downgrade", "0002", "--yes").exit_code == 0
        assert cli("db", "downgrade", "-1", "--yes").stdout == "migrated from 0002 to 0001\n"
        result = cli("db", "downgrade", "--yes", "-9")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "0001" in result.stderr

    @pytest.mark.parametrize("mistyped", ["--yse", "-x", "-"])
    def test_takes_no_option_for_a_revision(self, sqlite_cli: CommandLine, mistyped: str) -> None:
        """What begins with a dash and is no number of steps ends with 2, before anybody is asked."""
        result = sqlite_cli("db", "downgrade", mistyped)
        assert result.exit_code == 2
        assert f"there is no option {mistyped}" in result.stderr


class TestCurrent:
    def test_prints_the_revision(self, cli: CommandLine) -> None:
        """The revision of the database is printed beside the one needed."""
        head = head_revision()
        result = cli("db", "current")
        assert (result.exit_code, result.stdout) == (0, f"{head}, needed: {head}\n")
        assert json.loads(cli("db", "current", "--json").stdout) == {
            "revision": head,
            "needed": head,
            "up_to_date": True,
        }

    def test_ends_with_4_where_it_is_another(self, cli: CommandLine, empty_cli: CommandLine) -> None:
        """The document stays complete where the database is at no revision, or at an unknown one."""
        set_revision(cli, "9999")
        for each, revision in ((cli, "9999"), (empty_cli, None)):
            result = each("db", "current", "--json")
            assert result.exit_code == 4
            document = json.loads(result.stdout)
            assert document == {"revision": revision, "needed": head_revision(), "up_to_date": False}


class TestCheck:
    def test_says_that_all_is_well(self, cli: CommandLine) -> None:
        """A database at the revision needed, with its tables, passes."""
        result = cli("db", "check")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("ok: ")
        assert json.loads(cli("db", "check", "--json").stdout) == {"ok": True, "revision": head_revision()}

    def test_finds_tables_that_differ(self, cli: CommandLine) -> None:
        """A lost table is an error that names it, with exit code 4."""
        cli.sql("DROP TABLE session_handshakes")
        result = cli("db", "check", "--json")
        assert (result.exit_code, result.stdout) == (4, "")
        assert "session_handshakes" in result.stderr
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("name", MADE)
    def test_finds_what_is_missing_besides_tables(self, cli: CommandLine, name: str) -> None:
        """A trigger or view that is missing is an error that names it and what makes it again."""
        kind = "VIEW" if name in VIEWS else "TRIGGER"
        table = "session_events" if name.startswith("session_events") else "sessions"
        cli.sql(f"DROP {kind} {name}" + (f" ON {table}" if kind == "TRIGGER" and "postgres" in cli.url else ""))
        result = cli("db", "check")
        assert (result.exit_code, result.stdout) == (4, "")
        assert f"the {kind.lower()} {name} is missing" in result.stderr
        assert "mcp-sessions db upgrade --sql" in result.stderr
        assert result.stderr.count("\n") == 1

    def test_finds_a_trigger_of_another_body(self, cli: CommandLine) -> None:
        """A trigger, or its function, that does something else than the migrations' is an error that names it."""
        if cli.url.startswith("postgres"):
            name = "function session_events_record"
            body = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
            cli.sql(f"CREATE OR REPLACE FUNCTION session_events_record() {body}")
        else:
            name = "trigger sessions_deleted"
            cli.sql("DROP TRIGGER sessions_deleted")
            cli.sql("CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions BEGIN SELECT 1; END")
        result = cli("db", "check")
        assert (result.exit_code, result.stdout) == (4, "")
        assert f"the {name} is another one" in result.stderr

    def test_finds_a_trigger_that_is_disabled(self, postgres_url: str) -> None:
        """A trigger that somebody switched off on Postgres is as good as missing."""
        cli = CommandLine(postgres_url)
        cli.sql("ALTER TABLE sessions DISABLE TRIGGER sessions_deleted")
        result = cli("db", "check")
        assert result.exit_code == 4
        assert "the trigger sessions_deleted is missing or disabled" in result.stderr


class TestWrongDatabase:
    @pytest.mark.parametrize("command", [*SESSION_COMMANDS, ["db", "check"]], ids=" ".join)
    def test_of_no_revision_is_not_migrated(self, empty_sqlite_url: str, command: list[str]) -> None:
        """A SQLite file that does not exist is not created: exit code 4, and the command that creates it."""
        result = CommandLine(empty_sqlite_url)(*command, MCP_SESSIONS_AUTO_UPGRADE="true")
        assert (result.exit_code, result.stdout) == (4, "")
        assert "mcp-sessions db upgrade" in result.stderr
        assert not Path(empty_sqlite_url.removeprefix("sqlite:///")).exists()

    def test_of_an_older_revision_is_named(self, cli: CommandLine) -> None:
        """The message names both revisions and the command that mends it."""
        set_revision(cli, "0001")
        result = cli("count")
        assert (result.exit_code, result.stdout) == (4, "")
        assert all(each in result.stderr for each in ("0001", head_revision(), "mcp-sessions db upgrade"))

    @pytest.mark.parametrize(
        "command", [["count"], ["db", "upgrade"], ["db", "downgrade", "0001", "--yes"]], ids=" ".join
    )
    def test_of_a_newer_revision_is_named(self, cli: CommandLine, command: list[str]) -> None:
        """A database that a newer version has migrated is left alone; the message says what to install or run."""
        set_revision(cli, "9999")
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (4, "")
        assert all(each in result.stderr for each in ("9999", head_revision(), "install that version"))

    @pytest.mark.parametrize(
        "command", [["count"], ["db", "current"], ["db", "upgrade"], ["db", "check"]], ids=" ".join
    )
    def test_out_of_reach_ends_with_3(self, sqlite_cli: CommandLine, command: list[str]) -> None:
        """Nobody listening is exit code 3 and one line that names the database without its password."""
        url = "postgresql://ada:s3cret@127.0.0.1:1/sessions?password=s3cret"
        result = sqlite_cli("--database-url", url, *command)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "postgresql://ada:***@127.0.0.1:1/sessions" in result.stderr
        assert "s3cret" not in result.stderr
        assert result.stderr.count("\n") == 1

    def test_that_is_no_database_ends_with_3(self, sqlite_cli: CommandLine, tmp_path: Path) -> None:
        """A file with something else in it is a fault of the database, and stays as it is."""
        file = tmp_path / "notes.txt"
        file.write_text("not a database\n" * 100)
        for command in (["count"], ["db", "upgrade"], ["db", "check"]):
            result = sqlite_cli("--database-url", f"sqlite:///{file}", *command)
            assert (result.exit_code, result.stdout) == (3, "")
            assert result.stderr.count("\n") == 1
        assert file.read_text() == "not a database\n" * 100

    @pytest.mark.parametrize(
        ("url", "named"),
        [
            ("mysql://ada:s3cret@host/x", "'mysql'"),
            ("nonsense s3cret", "database_url"),
            ("sqlite://", "must name a SQLite file"),
            ("sqlite:////no/such/folder/s.db", "/no/such/folder"),
            ("postgresql://ada:s3cret@host:port/x", "database_url"),
        ],
    )
    def test_that_is_misspelt_ends_with_2(self, sqlite_cli: CommandLine, url: str, named: str) -> None:
        """A URL that cannot be right is named as the setting it is, and its password is not repeated."""
        for command in (["count"], ["db", "upgrade"], ["db", "current"]):
            result = sqlite_cli(*command, "--database-url", url)
            assert (result.exit_code, result.stdout) == (2, "")
            assert named in result.stderr
            assert "s3cret" not in result.stderr
            assert result.stderr.count("\n") == 1

    def test_of_wrong_settings_ends_with_2(self, sqlite_cli: CommandLine) -> None:
        """A setting of the environment that makes no sense is named."""
        result = sqlite_cli("count", MCP_SESSIONS_IDLE_TIMEOUT="-1")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "MCP_SESSIONS_IDLE_TIMEOUT" in result.stderr


class TestCommonOptions:
    def test_stand_before_or_after_the_command(self, cli: CommandLine, empty_sqlite_url: str) -> None:
        """`--database-url` wins over the environment in front of the command, and behind it over that in front."""
        cli.create()
        url = cli.url
        cli.url = empty_sqlite_url
        assert cli("count").exit_code == 4
        assert cli("--database-url", url, "count").stdout == "1\n"
        assert cli("count", "--database-url", url).stdout == "1\n"
        assert cli("--database-url", empty_sqlite_url, "count", "--database-url", url).stdout == "1\n"
        assert cli("--database-url", url, "db", "current").exit_code == 0

    def test_name_a_schema_on_postgres(self, empty_postgres_url: str) -> None:
        """With `--database-schema`, the tables are made and found in that schema alone."""
        cli = CommandLine(empty_postgres_url)
        assert cli("--database-schema", "mcp", "db", "upgrade").exit_code == 0
        assert cli("count", "--database-schema", "mcp").stdout == "0\n"
        assert cli("db", "check", "--database-schema", "mcp").exit_code == 0
        assert cli("count").exit_code == 4
        tables = cli.sql("SELECT schemaname FROM pg_tables WHERE tablename = 'sessions'")
        assert tables == [{"schemaname": "mcp"}]

    def test_refuse_a_schema_that_is_no_name(self, sqlite_cli: CommandLine) -> None:
        """A schema name that would have to be quoted ends with 2."""
        result = sqlite_cli("count", "--database-schema", 'a"; drop')
        assert result.exit_code == 2
        assert "database_schema" in result.stderr


def test_a_stopped_server_ends_commands_with_3(postgres_server: PostgresServer, postgres_url: str) -> None:
    """Whatever the command, a stopped Postgres is exit code 3; once it is back, commands work."""
    cli = CommandLine(postgres_url)
    postgres_server.stop()
    try:
        results = [cli(*command) for command in (["count"], ["cleanup"], ["clear", "--yes"], ["db", "check"])]
    finally:
        postgres_server.start()
    assert {result.exit_code for result in results} == {3}
    assert cli("count").exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        ["list"], ["show", "ab"], ["count"], ["stats"], ["audit"], ["audit", "--follow"], ["terminate", "ab"],
        ["cleanup"], ["clear", "--yes"], ["db", "check"], ["db", "current"], ["db", "downgrade", "base", "--yes"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_missing_file_is_named_and_not_made(empty_sqlite_url: str, command: list[str]) -> None:
    """Every command but those that create one says which file there is none of, ends with 4 and leaves none."""
    result = CommandLine(empty_sqlite_url)(*command)
    file = Path(empty_sqlite_url.removeprefix("sqlite:///"))
    assert result.exit_code == 4
    assert f"there is no file {file}: 'mcp-sessions db upgrade' creates" in result.stderr
    assert not [*file.parent.glob("*.db*")]


class TestReencrypt:
    KEY = "b3BlbnNzbCByYW5kIC1iYXNlNjQgMzIgbWFkZSBpdCE="

    def test_seals_what_was_stored_before(self, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once keys are set, what was stored without them is sealed; a second run finds nothing to do."""
        asyncio.run(store(cli.url))
        monkeypatch.setenv("MCP_SESSIONS_ENCRYPTION_KEYS", self.KEY)
        assert cli("db", "reencrypt").stdout == "texts sealed anew: 1\n"
        assert json.loads(cli("db", "reencrypt", "--json").stdout) == {"sealed": 0}

    def test_needs_keys(self, cli: CommandLine) -> None:
        """Without keys it is an error of settings that names them."""
        result = cli("db", "reencrypt")
        assert result.exit_code == 2
        assert "MCP_SESSIONS_ENCRYPTION_KEYS" in result.stderr


async def store(url: str) -> None:
    """Store a value in the state of a session."""
    async with SessionManager.open(url, scheduled_cleanup=False) as manager:
        await manager.state(await opened(manager)).set("words", "plain")


class TestPing:
    def test_tells_that_a_server_could_start(self, cli: CommandLine) -> None:
        """A database that answers at the revision needed is exit code 0, and one JSON document for programs."""
        result = cli("db", "ping")
        assert (result.exit_code, result.stdout.startswith("ok: ")) == (0, True)
        said = json.loads(cli("db", "ping", "--json").stdout)
        assert 0 < said.pop("seconds") < 5
        assert said == {"ok": True, "revision": head_revision()}

    def test_another_revision_is_exit_code_4(self, cli: CommandLine) -> None:
        """A database at another revision is one that no server could start on."""
        set_revision(cli, "0001")
        result = cli("db", "ping", "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (4, {"ok": False, "failed": "schema revision"})
        assert "db upgrade" in result.stderr

    def test_a_missing_file_is_exit_code_4_and_stays_missing(self, tmp_path: Path) -> None:
        """Asking makes no file."""
        file = tmp_path / "none.db"
        assert CommandLine(f"sqlite:///{file}")("db", "ping").exit_code == 4
        assert not file.exists()

    def test_a_database_that_does_not_answer_is_exit_code_3_in_time(
        self, postgres_url: str, postgres_server: PostgresServer
    ) -> None:
        """A frozen server is given up at the time limit."""
        cli = CommandLine(postgres_url)
        postgres_server.freeze()
        try:
            began = time.monotonic()
            result = cli("db", "ping", "--timeout", "0.2s", "--json")
            took = time.monotonic() - began
        finally:
            postgres_server.thaw()
        assert (result.exit_code, json.loads(result.stdout)) == (3, {"ok": False, "failed": "database"})
        assert took < 3

    @pytest.mark.parametrize("timeout", ["0", "-1s", "soon", "0.0001s"])
    def test_a_time_limit_that_is_none_is_refused(self, sqlite_cli: CommandLine, timeout: str) -> None:
        """A time limit is a time, and not too short to ask anything."""
        result = sqlite_cli("db", "ping", f"--timeout={timeout}")
        assert (result.exit_code, "is no time such as 2s" in result.stderr) == (2, True)
