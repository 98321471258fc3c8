"""`list`, `show`, `count` and `terminate`."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mcp_sessions import Owner, SessionManager
from mcp_sessions.digests import digest_of, short_digest
from mcp_sessions.records.events import CREATED_BY_TOOL
from tests.cli.conftest import CommandLine

SESSION_KEYS = [
    "digest",
    "tenant_id",
    "client_id",
    "issuer",
    "subject",
    "created_at",
    "last_activity_at",
    "expires_at",
]

# Two ids whose digests begin alike, with ed9; found by trying.
ALIKE = ("alike-10", "alike-23")


def listed(cli: CommandLine, *arguments: str) -> list[str]:
    """Return the digests that `list` prints as JSON."""
    return [each["digest"] for each in json.loads(cli("list", "--json", *arguments).stdout)["sessions"]]


class TestList:
    def test_shows_live_sessions_newest_first(self, cli: CommandLine) -> None:
        """The table has a line for each live session, the newest on top, and none for an expired one."""
        older, newer, expired = cli.create(tenant_id="acme"), cli.create(tenant_id="umbrella"), cli.create()
        cli.expire(expired)
        result = cli("list")
        lines = result.stdout.splitlines()
        shown = [line.split()[:2] for line in lines if "acme" in line or "umbrella" in line]
        assert shown == [[short_digest(digest_of(newer)), "umbrella"], [short_digest(digest_of(older)), "acme"]]
        assert short_digest(digest_of(expired)) not in result.stdout
        assert (result.exit_code, result.stderr) == (0, "")

    def test_prints_one_json_document(self, cli: CommandLine) -> None:
        """`--json` prints every fact of a session under stable keys, with times in ISO 8601 and UTC."""
        session_id = cli.create(tenant_id="acme", client_id="cli-1", issuer="https://idp.example", subject="ada")
        document = json.loads(cli("list", "--json").stdout)
        assert list(document) == ["sessions", "next_cursor"]
        assert document["next_cursor"] is None
        (session,) = document["sessions"]
        assert list(session) == SESSION_KEYS
        assert session["digest"] == digest_of(session_id).hex()
        assert [session[key] for key in SESSION_KEYS[1:5]] == ["acme", "cli-1", "https://idp.example", "ada"]
        times = [datetime.fromisoformat(session[key]) for key in SESSION_KEYS[5:]]
        assert all(session[key].endswith("Z") for key in SESSION_KEYS[5:])
        assert abs(times[0] - datetime.now(UTC)) < timedelta(minutes=5)
        assert times[0] == times[1] < times[2]

    def test_filters_by_owner(self, cli: CommandLine) -> None:
        """Each filter shows the sessions of its owner alone, and filters together those of all of them."""
        ours = cli.create(tenant_id="acme", client_id="c1", subject="ada")
        same_tenant = cli.create(tenant_id="acme", client_id="c2", subject="bob")
        foreign = cli.create(tenant_id="umbrella", client_id="c1", subject="ada")
        digests = {name: digest_of(each).hex() for name, each in zip("ost", (ours, same_tenant, foreign), strict=True)}
        assert listed(cli, "--tenant", "acme") == [digests["s"], digests["o"]]
        assert listed(cli, "--client", "c1") == [digests["t"], digests["o"]]
        assert listed(cli, "--subject", "ada", "--tenant", "umbrella") == [digests["t"]]
        assert listed(cli, "--tenant", "acm") == []

    def test_goes_through_pages(self, cli: CommandLine) -> None:
        """A page names the cursor of the next one, and all pages together are what `--all` prints."""
        cli.create_many(5, Owner(tenant_id="acme"))
        everything = listed(cli, "--all", "--limit", "2")
        assert len(set(everything)) == 5
        first = json.loads(cli("list", "--json", "--limit", "3").stdout)
        rest = listed(cli, "--limit", "3", "--cursor", first["next_cursor"])
        assert [each["digest"] for each in first["sessions"]] + rest == everything
        table = cli("list", "--limit", "3")
        assert first["next_cursor"] in table.stderr

    def test_of_nothing_is_no_failure(self, cli: CommandLine) -> None:
        """An empty list says so on standard error and ends with 0; as JSON it is an empty list."""
        result = cli("list")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no live sessions\n")
        assert json.loads(cli("list", "--json").stdout) == {"sessions": [], "next_cursor": None}

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--limit", "0"], "limit must be a whole number from 1 to 1000"),
            (["--limit", "1001"], "limit must be a whole number from 1 to 1000"),
            (["--cursor", "bogus"], "cursor"),
            (["--tenant", ""], "tenant_id must have 1 to 512 characters"),
            (["--tenant", "x" * 513], "tenant_id must have 1 to 512 characters"),
            (["--client", "a\udcffb"], "client_id must not hold U+DCFF"),
        ],
    )
    def test_names_a_wrong_argument(self, sqlite_cli: CommandLine, arguments: list[str], named: str) -> None:
        """An argument that cannot be right ends with 2 and one line that names it."""
        result = sqlite_cli("list", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert named in result.stderr

    @pytest.mark.parametrize("tenant", ["Łódź 日本 🦊", "مرحبا", "[bold]x[/bold]", "a,b'c\"d"])
    def test_shows_any_tenant_as_it_is(self, cli: CommandLine, tenant: str) -> None:
        """A tenant in any script, or that looks like markup, is shown as it is and can be filtered by."""
        cli.create(tenant_id=tenant)
        assert tenant in cli("list", "--tenant", tenant).stdout
        assert tenant in cli("show", listed(cli)[0]).stdout
        assert json.loads(cli("list", "--json").stdout)["sessions"][0]["tenant_id"] == tenant

    def test_lets_no_tenant_steer_the_terminal(self, sqlite_cli: CommandLine) -> None:
        """Control characters and line ends in an owner are shown as escapes."""
        sqlite_cli.create(tenant_id="evil\x1b[2J\nline\u202e")
        result = sqlite_cli("list")
        assert r"evil\x1b[2J\nline\u202e" in result.stdout
        assert "\x1b" not in result.stdout
        assert sqlite_cli("list", "--json").stdout.isascii()

    @pytest.mark.parametrize("columns", [71, 40, 24])
    def test_fits_a_tiny_terminal(self, sqlite_cli: CommandLine, columns: int) -> None:
        """No line is wider than the terminal, however narrow, and nothing of a session is cut off."""
        session_id = sqlite_cli.create(tenant_id="Q" * 30, client_id="W" * 50)
        digest = digest_of(session_id).hex()
        for command in ("list", "show"):
            argument = [digest] if command == "show" else []
            output = sqlite_cli(command, *argument, columns=columns).stdout
            assert max(map(len, output.splitlines())) <= columns
            assert digest[:6] in output
            assert (output.count("Q"), output.count("W")) == (30, 50)

    def test_cuts_nothing_off_in_a_pipe(self, sqlite_cli: CommandLine) -> None:
        """Where standard output is no terminal, a session is one line, whatever the length of its owner."""
        sqlite_cli.create(tenant_id="t" * 512, client_id="c" * 512)
        lines = sqlite_cli("list", columns=None).stdout.splitlines()
        assert any("t" * 512 in line and "c" * 512 in line for line in lines)


class TestShow:
    @pytest.mark.parametrize("argument", [[], ["-"]])
    def test_takes_a_session_id_from_standard_input(self, cli: CommandLine, argument: list[str]) -> None:
        """The id may be piped in, with or without an end of line, and every fact but the id is shown."""
        session_id = cli.create(tenant_id="acme", subject="ada")
        for stdin in (session_id, session_id + "\n", session_id + "\r\n"):
            result = cli("show", *argument, stdin=stdin)
            facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
            assert list(facts) == SESSION_KEYS
            assert facts["digest"].strip() == digest_of(session_id).hex()
            assert [facts[key].strip() for key in SESSION_KEYS[1:5]] == ["acme", "-", "-", "ada"]
            assert result.exit_code == 0

    def test_tells_names_and_sizes_of_state(self, cli: CommandLine) -> None:
        """What the state of a session holds is told by names and sizes, never by its values."""
        session_id = cli.create()
        asyncio.run(store(cli.url, session_id, {"cart": "of apples", "visits": 7}))
        result = cli("show", stdin=session_id)
        assert [
            line.split(maxsplit=1)[1].strip() for line in result.stdout.splitlines() if line.startswith("state")
        ] == [*("cart (11 bytes)", "visits (1 bytes)")]
        document = json.loads(cli("show", "--json", stdin=session_id).stdout)
        assert document["state"] == {"cart": 11, "visits": 1}
        assert "apples" not in result.stdout + json.dumps(document)

    def test_shows_values_to_whoever_asks_and_records_it(self, cli: CommandLine) -> None:
        """With `--values` the state is shown whole, on one line an entry, and the trail tells that it was."""
        session_id = cli.create()
        asyncio.run(store(cli.url, session_id, {"cart": ["of", "apples\n\x1b[2J"], "visits": 7}))
        lines = cli("show", "--values", stdin=session_id).stdout.splitlines()
        assert [line.split(maxsplit=1)[1].strip() for line in lines if line.startswith("state")] == [
            'cart (26 bytes): ["of", "apples\\n\\u001b[2J"]',
            "visits (1 bytes): 7",
        ]
        document = json.loads(cli("show", "--values", "--json", stdin=session_id).stdout)
        assert document["values"] == {"cart": ["of", "apples\n\x1b[2J"], "visits": 7}
        (*read, created) = json.loads(cli("audit", "--json", "--session", "-", stdin=session_id).stdout)["events"]
        assert [(each["kind"], each["actor"]) for each in read] == [("state_read", "operator")] * 2
        assert created["kind"] == "created"

    def test_takes_a_digest_or_its_beginning(self, cli: CommandLine) -> None:
        """A whole digest or an unambiguous beginning of it, in either case, names its session."""
        session_id = cli.create(tenant_id="acme")
        cli.create(tenant_id="umbrella")
        digest = digest_of(session_id).hex()
        for argument in (digest, digest[:12], digest[:13].upper()):
            document = json.loads(cli("show", argument, "--json").stdout)
            assert list(document) == SESSION_KEYS
            assert document["digest"] == digest

    def test_names_the_digests_that_an_ambiguous_one_could_mean(self, cli: CommandLine) -> None:
        """A beginning that several digests share ends with 2 and lists them, short."""
        for each in ALIKE:
            cli.create(each)
        digests = [digest_of(each).hex() for each in ALIKE]
        shared = digests[0][:3]
        assert all(each.startswith(shared) for each in digests)
        result = cli("show", shared)
        assert (result.exit_code, result.stdout) == (2, "")
        assert all(each[:12] in result.stderr and each[:13] not in result.stderr for each in digests)
        assert cli("show", digests[0][:12]).exit_code == 0

    def test_of_no_live_session_ends_with_1(self, cli: CommandLine) -> None:
        """Unknown and expired sessions alike are an error on standard error, exit code 1, and no output."""
        expired = cli.create()
        cli.expire(expired)
        for arguments, stdin in (
            (["abc"], ""),
            ([digest_of(expired).hex()], ""),
            ([], expired),
            ([], "an-unknown-id"),
        ):
            result = cli("show", *arguments, "--json", stdin=stdin)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith("Error: no live session")

    @pytest.mark.parametrize("command", ["show", "terminate"])
    def test_repeats_no_session_id_given_as_an_argument(self, sqlite_cli: CommandLine, command: str) -> None:
        """A session id by mistake among the arguments is not repeated, and the message says what to do instead."""
        for session_id in ("x" * 43, "0123456789abcdef0123456789abcdef"):
            sqlite_cli.create(session_id)
            result = sqlite_cli(command, session_id)
            assert result.exit_code in (1, 2)
            assert session_id[:6] not in result.output
            assert sqlite_cli.lives(session_id)
        assert "pipe it in" in sqlite_cli(command, "x" * 43).stderr

    @pytest.mark.parametrize(
        "stdin", [b"", b"\n", b"two ids\n", b"one\ntwo\n", b"x" * 257, b"x" * 100_000, b"\xff\xfe"]
    )
    def test_refuses_what_is_no_session_id(self, sqlite_cli: CommandLine, stdin: bytes) -> None:
        """Standard input that is empty or holds no session id ends with 2 and is not repeated."""
        result = sqlite_cli("show", stdin=stdin)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert "two" not in result.stderr
        assert "xxx" not in result.stderr


class TestCount:
    def test_counts_live_sessions_by_owner(self, cli: CommandLine) -> None:
        """The count is a bare number, of all live sessions or of those of a tenant or client."""
        cli.create(tenant_id="acme", client_id="c1")
        cli.create(tenant_id="acme", client_id="c2")
        cli.create(tenant_id="umbrella", client_id="c1")
        cli.expire(cli.create(tenant_id="acme", client_id="c1"))
        counts = {
            (): 3,
            ("--tenant", "acme"): 2,
            ("--client", "c1"): 2,
            ("--tenant", "acme", "--client", "c1"): 1,
            ("--tenant", "x"): 0,
        }
        for filters, count in counts.items():
            result = cli("count", *filters)
            assert (result.exit_code, result.stdout) == (0, f"{count}\n")
            assert json.loads(cli("count", "--json", *filters).stdout) == {"count": count}


class TestTerminate:
    def test_ends_one_session_without_asking(self, cli: CommandLine) -> None:
        """A session named by its id or by its digest is ended, and no other one."""
        by_id, by_digest, bystander = (cli.create(tenant_id="acme") for _ in range(3))
        result = cli("terminate", stdin=by_id)
        assert result.stdout == f"session ended: {short_digest(digest_of(by_id))}\n"
        result = cli("terminate", digest_of(by_digest).hex()[:12], "--json", "--reason", "lost device")
        assert json.loads(result.stdout) == {"terminated": 1}
        assert [cli.lives(each) for each in (by_id, by_digest, bystander)] == [False, False, True]

    def test_of_no_live_session_ends_with_1(self, cli: CommandLine) -> None:
        """What ended or expired before, or never was, cannot be ended."""
        ended, expired = cli.create(), cli.create()
        cli("terminate", stdin=ended)
        cli.expire(expired)
        for stdin in (ended, expired, "unknown"):
            result = cli("terminate", "--json", stdin=stdin)
            assert (result.exit_code, result.stdout) == (1, "")

    def test_ends_nothing_where_the_digest_is_ambiguous(self, cli: CommandLine) -> None:
        """Of several sessions that a digest could mean, none is ended."""
        for each in ALIKE:
            cli.create(each)
        assert cli("terminate", digest_of(ALIKE[0]).hex()[:3]).exit_code == 2
        assert all(map(cli.lives, ALIKE))

    @pytest.mark.parametrize(
        ("filters", "left"),
        [
            (["--tenant", "acme"], "cd"),
            (["--client", "c1"], "bd"),
            (["--subject", "ada"], "bc"),
            (["--issuer", "https://two"], "abc"),
            (["--tenant", "acme", "--client", "c1"], "bcd"),
            (["--tenant", "nobody"], "abcd"),
        ],
    )
    @pytest.mark.slow
    def test_ends_many_by_owner(self, cli: CommandLine, filters: list[str], left: str) -> None:
        """Filters end every live session of that owner and of no other, and their number is printed."""
        owners: dict[str, dict[str, Any]] = {
            "a": {"tenant_id": "acme", "client_id": "c1", "subject": "ada", "issuer": "https://one"},
            "b": {"tenant_id": "acme", "client_id": "c2", "issuer": "https://one"},
            "c": {"tenant_id": "umbrella", "client_id": "c1", "issuer": "https://one"},
            "d": {"tenant_id": "umbrella", "subject": "ada", "issuer": "https://two"},
        }
        ids = {name: cli.create(**owner) for name, owner in owners.items()}
        result = cli("terminate", *filters, "--yes", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout) == {"terminated": 4 - len(left)}
        assert "".join(name for name, each in ids.items() if cli.lives(each)) == left

    def test_ends_many_in_several_batches(self, sqlite_cli: CommandLine) -> None:
        """More sessions than one transaction ends are all ended."""
        sqlite_cli.create_many(25, Owner(tenant_id="acme"))
        result = sqlite_cli("terminate", "--tenant", "acme", "-y", MCP_SESSIONS_CLEANUP_BATCH_SIZE="10")
        assert result.stdout == "sessions ended: 25\n"
        assert sqlite_cli("count").stdout == "0\n"

    def test_refuses_many_where_nobody_can_be_asked(self, sqlite_cli: CommandLine) -> None:
        """Without a terminal and without `--yes`, nothing is ended and the exit code is 2."""
        session_id = sqlite_cli.create(tenant_id="acme")
        result = sqlite_cli("terminate", "--tenant", "acme", stdin="y\n")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--yes" in result.stderr
        assert sqlite_cli.lives(session_id)

    def test_refuses_one_session_and_filters_together(self, sqlite_cli: CommandLine) -> None:
        """A digest beside filters is a contradiction: nothing is ended."""
        session_id = sqlite_cli.create(tenant_id="acme")
        result = sqlite_cli("terminate", digest_of(session_id).hex(), "--tenant", "acme", "--yes")
        assert result.exit_code == 2
        assert sqlite_cli.lives(session_id)

    def test_refuses_an_owner_or_a_reason_that_cannot_be(self, sqlite_cli: CommandLine) -> None:
        """An empty filter is not no filter, and a reason has to be storable: nothing is ended."""
        session_id = sqlite_cli.create(tenant_id="acme")
        for arguments in (
            ["--tenant", ""],
            ["--tenant", "acme", "--reason", "x" * 257],
            ["--tenant", "acme", "--reason", ""],
        ):
            assert sqlite_cli("terminate", *arguments, "--yes").exit_code == 2
        assert sqlite_cli("terminate", "--reason", "", stdin=session_id).exit_code == 2
        assert sqlite_cli.lives(session_id)


@pytest.mark.parametrize(
    ("command", "event"),
    [
        (["terminate", "-"], ("terminated", "terminated")),
        (["terminate", "-", "--reason", "lost device"], ("terminated", "lost device")),
        (["terminate", "--tenant", "acme", "--yes"], ("revoked", "revoked")),
        (["terminate", "--tenant", "acme", "--yes", "--reason", "offboarded"], ("revoked", "offboarded")),
        (["clear", "--yes"], ("cleared", "cleared")),
        (["clear", "--yes", "--reason", "incident 7"], ("cleared", "incident 7")),
    ],
    ids=" ".join,
)
def test_the_audit_trail_names_the_operator(cli: CommandLine, command: list[str], event: tuple[str, str]) -> None:
    """What ends at the command line ends by the hand of an operator, for the reason given."""
    session_id = cli.create(tenant_id="acme")
    assert cli(*command, stdin=session_id).exit_code == 0
    (row,) = cli.sql("SELECT kind, reason, actor FROM session_events WHERE kind <> 'created'")
    assert (row["kind"], row["reason"], row["actor"]) == (*event, "operator")


async def store(url: str, session_id: str, state: dict[str, object]) -> None:
    """Store values in the state of a session."""
    async with SessionManager.open(url, scheduled_cleanup=False) as manager:
        session = await manager.get_session_metadata(session_id)
        assert session is not None
        for name, value in state.items():
            await manager.state(session).set(name, value)


class TestHandles:
    @pytest.mark.slow
    def test_tells_handles_from_ids(self, cli: CommandLine) -> None:
        """Sessions that a tool created for a handle are told apart in list, show, stats and audit."""
        session_id = cli.create(tenant_id="by-id")
        handle = asyncio.run(created_by_tool(cli.url))
        told = {line.split()[1]: line.split()[-1] for line in cli("list").stdout.splitlines()[1:]}
        assert told == {"by-id": "id", "by-handle": "handle"}
        found_by = [each.get("found_by") for each in json.loads(cli("list", "--json").stdout)["sessions"]]
        assert sorted(found_by, key=str) == [None, "handle"]
        assert "found_by" in cli("show", stdin=handle).stdout
        assert "found_by" not in cli("show", stdin=session_id).stdout
        assert json.loads(cli("stats", "--json").stdout)["live_by_handle"] == 1
        assert "by handle" in cli("stats").stdout
        reasons = [each["reason"] for each in json.loads(cli("audit", "--json").stdout)["events"]]
        assert sorted(reasons) == ["created", CREATED_BY_TOOL]


async def created_by_tool(url: str) -> str:
    """Create a session as a tool does."""
    async with SessionManager.open(url, scheduled_cleanup=False) as manager:
        return await manager.create_session(tenant_id="by-handle", reason=CREATED_BY_TOOL)
