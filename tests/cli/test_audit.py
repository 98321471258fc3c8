"""`audit`: the trail from the command line."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_sessions.digests import digest_of, short_digest
from tests.cli.conftest import CommandLine
from tests.support.postgres import PostgresServer

EVENT_KEYS = [
    *("event_id", "occurred_at", "kind", "reason", "actor", "digest"),
    *("tenant_id", "client_id", "issuer", "subject", "session_created_at", "lifetime_seconds"),
    *("claimed_tenant_id", "claimed_client_id", "claimed_issuer", "claimed_subject"),
]


@contextlib.contextmanager
def following(cli: CommandLine, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `audit --follow`; it is over in the end, however that comes."""
    with subprocess.Popen(
        [sys.executable, "-m", "mcp_sessions", "audit", "--follow", *arguments],
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def events(cli: CommandLine, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
    """Return the events that `audit` prints as JSON."""
    result = cli("audit", "--json", *arguments, stdin=stdin)
    found: list[dict[str, Any]] = json.loads(result.stdout)["events"]
    return found


@pytest.mark.slow
def test_shows_events_newest_first(cli: CommandLine) -> None:
    """The table has a line for each event, the newest on top, with session, owner, actor and reason."""
    session_id = cli.create(tenant_id="acme", client_id="cli-1", subject="ada")
    cli("terminate", stdin=session_id)
    result = cli("audit")
    short = short_digest(digest_of(session_id))
    shown = [line.split()[2:] for line in result.stdout.splitlines()[1:]]
    assert shown == [
        ["terminated", short, "acme", "cli-1", "ada", "operator", "terminated"],
        ["created", short, "acme", "cli-1", "ada", "owner", "created"],
    ]
    assert (result.exit_code, result.stderr) == (0, "")


def test_prints_one_json_document_in_pages(cli: CommandLine) -> None:
    """`--json` prints every fact of an event under stable keys, and the cursor of the next page."""
    session_id = cli.create(tenant_id="acme")
    cli("terminate", stdin=session_id)
    first = json.loads(cli("audit", "--json", "--limit", "1").stdout)
    assert list(first) == ["events", "next_cursor"]
    (ended,) = first["events"]
    assert list(ended) == EVENT_KEYS
    assert (ended["kind"], ended["digest"], ended["tenant_id"]) == ("terminated", digest_of(session_id).hex(), "acme")
    assert ended["lifetime_seconds"] >= 0
    assert first["next_cursor"] in cli("audit", "--limit", "1").stderr
    (created,) = events(cli, "--limit", "1", "--cursor", first["next_cursor"])
    assert (created["kind"], created["lifetime_seconds"]) == ("created", None)


def test_prints_csv(sqlite_cli: CommandLine) -> None:
    """`--csv` prints a line of names and a line for each event, whatever is in an owner."""
    sqlite_cli.create(tenant_id='a,"b"\nc\x1b[2J')
    result = sqlite_cli("audit", "--csv")
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert list(row) == EVENT_KEYS
    assert (row["tenant_id"], row["client_id"], row["kind"]) == (r'a,"b"\nc\x1b[2J', "", "created")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1d1", "'\uff1d1"),
        (" =1", "' =1"),
        ("a;=cmd|' /C calc'!A0", "a;'=cmd|' /C calc'!A0"),
        ("\t=1", "\\t=1"),
        ("plain-one@example", "plain-one@example"),
    ],
)
def test_prints_csv_that_no_spreadsheet_runs(sqlite_cli: CommandLine, given: str, shown: str) -> None:
    """Text of a foreign hand that begins a cell like a formula has an apostrophe in front of that."""
    session_id = sqlite_cli.create(tenant_id=given, subject=given)
    sqlite_cli("terminate", "-", "--reason", given, stdin=session_id)
    ended, _created = csv.DictReader(sqlite_cli("audit", "--csv").stdout.splitlines())
    assert [ended["tenant_id"], ended["subject"], ended["reason"]] == [shown] * 3


def test_filters(cli: CommandLine) -> None:
    """Each filter shows the events that fit it, and filters together those that fit all of them."""
    ours = cli.create(tenant_id="acme", client_id="c1", issuer="https://idp.example", subject="ada")
    cli.create(tenant_id="umbrella", client_id="c1", subject="bob")
    cli("terminate", "--tenant", "acme", "--yes")
    found = {
        ("--tenant", "acme"): 2,
        ("--client", "c1"): 3,
        ("--client", "c1", "--subject", "bob"): 1,
        ("--issuer", "https://idp.example"): 2,
        ("--kind", "created"): 2,
        ("--kind", "created", "--kind", "revoked"): 3,
        ("--since", "24h"): 3,
        ("--since", " 1.5H "): 3,
        ("--until", "1h"): 0,
        ("--since", "2026-01-01", "--until", "2026-01-01T12:00Z"): 0,
        ("--session", digest_of(ours).hex()[:12]): 2,
    }
    assert {arguments: len(events(cli, *arguments)) for arguments in found} == found


def test_takes_a_session_id_from_standard_input(sqlite_cli: CommandLine) -> None:
    """`--session -` shows what happened to the session whose id is piped in, live or not."""
    session_id, _ = sqlite_cli.create(), sqlite_cli.create()
    sqlite_cli("terminate", stdin=session_id)
    found = events(sqlite_cli, "--session", "-", stdin=session_id + "\n")
    assert [each["kind"] for each in found] == ["terminated", "created"]
    assert {each["digest"] for each in found} == {digest_of(session_id).hex()}


def test_of_nothing_is_no_failure(sqlite_cli: CommandLine) -> None:
    """Where no event fits, it says so on standard error and ends with 0; as JSON it is an empty list."""
    result = sqlite_cli("audit", "--tenant", "nobody")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no such events\n")
    assert json.loads(sqlite_cli("audit", "--json").stdout) == {"events": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--limit", "0"], "limit must be a whole number from 1 to 1000"),
        (["--cursor", "bogus"], "cursor"),
        (["--kind", "opened"], "there is no kind opened; the kinds are created, terminated"),
        (["--since", "yesterday"], "--since must be a duration such as 90s"),
        (["--since", "2026"], "--since must be a duration such as 90s"),
        (["--since", "-1h"], "since must not be negative"),
        (["--until", "99999999d"], "until must not be negative, nor more than"),
        (["--since", "0001-01-01T00:00+14:00"], "since is out of the calendar"),
        (["--tenant", ""], "tenant_id must have 1 to 512 characters"),
        (["--json", "--csv"], "choose one of --json and --csv"),
        (["--follow", "--until", "1h"], "leave out --cursor and --until"),
        (["--session", "not-a-digest"], "--session - <"),
    ],
)
def test_names_a_wrong_argument(sqlite_cli: CommandLine, arguments: list[str], named: str) -> None:
    """An argument that cannot be right ends with 2 and one line that names it."""
    result = sqlite_cli("audit", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
    assert "not-a-digest" not in result.stderr


@pytest.mark.parametrize(("form", "needle"), [([], "created "), (["--json"], '"kind": "created"')])
@pytest.mark.slow
def test_follows_new_events_live(sqlite_cli: CommandLine, form: list[str], needle: str) -> None:
    """`--follow` prints the last events, then each new one as it happens, and ends with 130 on Ctrl-C."""
    sqlite_cli.create(tenant_id="first")
    with following(sqlite_cli, *form) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        sqlite_cli.create(tenant_id="second")
        second = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, messages = process.communicate(timeout=20)
    assert "first" in first
    assert "second" in second
    assert needle in first
    assert (process.returncode, rest) == (130, "")
    assert "Traceback" not in messages


@pytest.mark.slow
def test_follows_through_a_restart_of_the_database(postgres_server: PostgresServer, postgres_url: str) -> None:
    """While the database is away `--follow` says so once, then goes on where it was, with nothing lost or repeated."""
    cli = CommandLine(postgres_url)
    cli.create(tenant_id="first")
    with following(cli, "--tenant", "first", "--json") as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            shown = [process.stdout.readline()]
            for _ in range(2):
                cli.create(tenant_id="first")
                shown.append(process.stdout.readline())
                postgres_server.stop()
                assert "waiting for it to come back" in process.stderr.readline()
                postgres_server.start()
                cli.create(tenant_id="first")
                assert process.stderr.readline() == "the database is back\n"
                shown.append(process.stdout.readline())
            postgres_server.stop()
            assert "waiting for it to come back" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            rest, messages = process.communicate(timeout=20)
        finally:
            postgres_server.start()
    assert (process.returncode, rest, messages) == (130, "", "")
    numbers = [json.loads(line)["event_id"] for line in shown]
    assert numbers == [row["event_id"] for row in cli.sql("SELECT event_id FROM session_events ORDER BY event_id")]


def test_does_not_wait_for_a_database_that_was_never_there(sqlite_cli: CommandLine) -> None:
    """A database that is out of reach from the start ends `--follow` with 3."""
    result = sqlite_cli("audit", "--follow", "--database-url", "postgresql://127.0.0.1:1/sessions")
    assert (result.exit_code, result.stdout) == (3, "")
