"""`mcp-sessions serve` as a user runs it: real processes, a real client, real signals."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx2
import psutil
import pytest

from mcp_sessions import Session, SessionManager
from mcp_sessions.db.schema import revisions as schema
from tests.support import served, served_fast, sockets
from tests.support.mcp_client import ACCEPT, call
from tests.support.polling import until
from tests.support.processes import free_port, poll
from tests.support.serving import Connection, Serve, connected, in_session, opened, serving

README = Path(__file__).parents[2] / "README.md"
REVISION = r"\b00\d\d\b"
TALKATIVE = "from mcp.server.mcpserver import MCPServer\nserver = MCPServer('notes')\n"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of the server: with modules to serve, and room for its database."""
    shutil.copyfile(served.__file__, tmp_path / "notes.py")
    shutil.copyfile(served_fast.__file__, tmp_path / "fastnotes.py")
    return tmp_path


def url_in(folder: Path) -> str:
    """The URL of the default database of a server that runs in this folder."""
    return f"sqlite:///{folder}/mcp-sessions.db"


async def live_session(url: str, session_id: str) -> Session | None:
    """Return a session as the database has it, if it is live."""
    async with SessionManager.open(url, scheduled_cleanup=False) as sessions:
        return await sessions.get_session_metadata(session_id)


async def meet(connection: Connection, pids: set[str], count: int) -> None:
    """Call until that many processes have answered in all; add them to those known."""

    async def met() -> bool:
        pids.add(await connection.call("pid"))
        return len(pids) == count

    await until(met, patience=120)


def ended(process: psutil.Process) -> bool:
    """Tell whether an orphan is over, also where nobody asks for its exit code."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Serve]]:
    """The example, served without an argument, and the empty folder that it was started in."""
    folder = tmp_path_factory.mktemp("example")
    with serving(folder) as server:
        yield folder, server
        assert server.stop() == 0


class TestExample:
    @pytest.mark.slow
    async def test_answers_probes(self, example: tuple[Path, Serve]) -> None:
        """`/healthz` and `/readyz` are answered at the root, as the banner says."""
        _, server = example
        async with httpx2.AsyncClient() as http:
            for path in ("/healthz", "/readyz"):
                url = server.endpoint.removesuffix("/mcp") + path
                assert url in server.output
                assert (await http.get(url)).json() == {"status": "ok"}

    @pytest.mark.slow
    async def test_is_served_without_an_argument(self, example: tuple[Path, Serve]) -> None:
        """With nothing but an empty folder, the example is served from a new SQLite file, and knows its session."""
        folder, server = example
        async with connected(server.endpoint) as connection:
            result = await connection.client.call_tool("this_session")
            worker = await connection.client.call_tool("this_worker")
        session = await live_session(url_in(folder), connection.session_id)
        assert session is not None
        assert result.structured_content is not None
        assert result.structured_content["digest"] == session.short_digest
        assert worker.structured_content is not None
        assert worker.structured_content["pid"] == server.process.pid

    @pytest.mark.slow
    async def test_keeps_notes_of_each_session(self, example: tuple[Path, Serve]) -> None:
        """A note is recalled in its session only, by another process too."""
        folder, server = example
        async with connected(server.endpoint) as connection, connected(server.endpoint) as other:
            assert await connection.call("remember", text="water the plants") == "water the plants"
            notes = await other.client.call_tool("recall")
            assert notes.structured_content == {"result": []}
        with serving(folder) as another, httpx2.Client(headers=in_session(connection.session_id)) as http:
            assert "water the plants" in http.post(another.endpoint, json=call("recall")).text

    async def test_prints_what_the_readme_shows(self, example: tuple[Path, Serve]) -> None:
        """A new user finds in the README what the example prints as it starts, but for port and revision."""
        _, server = example
        await until(lambda: "INFO: " in server.output)
        shown = re.search(r"^\$ scripts/serve .*\n((?s:.*?))```$", README.read_text(), re.MULTILINE)
        assert shown is not None
        printed = server.output.partition("INFO: ")[0].replace(f":{server.address[1]}/", ":8000/")
        assert re.sub(REVISION, "", printed) == re.sub(REVISION, "", shown[1])

    async def test_reports_progress(self, example: tuple[Path, Serve]) -> None:
        """The slow tool of the example tells how far it is, and which process counted."""
        seen: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            assert (total, message) == (3, f"{progress:g} of 3")
            seen.append(progress)

        async with connected(example[1].endpoint) as connection:
            arguments = {"to": 3, "pause_seconds": 0}
            await connection.client.call_tool("count", arguments, progress_callback=note)
        assert seen == [1, 2, 3]

    async def test_says_so_where_there_is_no_session(self, example: tuple[Path, Serve]) -> None:
        """A client of the revision without sessions gets an answer, and an error from the tool that needs one."""
        async with httpx2.AsyncClient() as http:
            message = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {
                    "name": "this_session",
                    "arguments": {},
                    "_meta": {
                        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                        "io.modelcontextprotocol/clientCapabilities": {},
                        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
                    },
                },
            }
            headers = {
                "accept": "application/json, text/event-stream",
                "mcp-protocol-version": "2026-07-28",
                "mcp-method": "tools/call",
                "mcp-name": "this_session",
            }
            response = await http.post(example[1].endpoint, json=message, headers=headers)
        assert "needs the handle of a session" in response.text
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("notes:server", "/mcp"),
        ("fastnotes:server", "/mcp"),
        ("notes:app", "/mcp"),
        ("notes:plain", "/mcp"),
        ("notes:make_app", "/elsewhere"),
        ("notes:durable", "/mcp"),
    ],
)
@pytest.mark.slow
async def test_serves_what_it_finds(folder: Path, target: str, path: str) -> None:
    """An MCPServer, a FastMCP, an ASGI app, a function that makes one, or a DurableSessions: sessions are durable."""
    with serving(folder, target) as server:
        assert server.endpoint.endswith(path)
        async with connected(server.endpoint) as connection:
            assert await connection.call("pid") == str(server.process.pid)
    assert await live_session(url_in(folder), connection.session_id)


class TestOptions:
    @pytest.mark.slow
    async def test_reach_the_app(self, folder: Path) -> None:
        """Path and timeouts are those of the command line; the path holds for the server that is found, too."""
        with serving(folder, "notes:server", "--path", "/notes", "--idle-timeout", "100s") as server:
            assert server.endpoint.endswith("/notes")
            assert "idle timeout 0:01:40" in server.output
            async with connected(server.endpoint) as connection:
                await connection.call("pid")
        session = await live_session(url_in(folder), connection.session_id)
        assert session is not None
        touch_interval = timedelta(seconds=10)
        assert session.expires_at - session.last_activity_at == timedelta(seconds=100) + touch_interval

    @pytest.mark.slow
    async def test_win_over_the_environment(self, folder: Path, sqlite_url: str) -> None:
        """The database of the command line is used, not the one of the environment."""
        elsewhere = f"sqlite:///{folder}/elsewhere.db"
        with serving(folder, "notes:server", "--database-url", sqlite_url, MCP_SESSIONS_DATABASE_URL=elsewhere) as it:
            async with connected(it.endpoint) as connection:
                pass
            assert sqlite_url in it.output
        assert await live_session(sqlite_url, connection.session_id)
        assert not (folder / "elsewhere.db").exists()

    @pytest.mark.slow
    def test_must_not_be_ignored(self, folder: Path) -> None:
        """An option that the code of the app overrides is refused: exit code 2, and the option is named."""
        with Serve(folder, "notes:durable", "--idle-timeout", "1h") as server:
            assert server.exit_code() == 2
            assert "leave out --idle-timeout" in server.output


class TestPrintedLines:
    @pytest.mark.slow
    def test_tell_where_what_and_how(self, folder: Path, postgres_url: str) -> None:
        """An endpoint on this machine, the database without its password, how to connect and to stop are printed."""
        url = postgres_url.replace("postgres@", "postgres:not-for-logs@")
        everywhere = ("--host", "0.0.0.0")  # noqa: S104 - what is tested
        with serving(folder, "notes:server", *everywhere, MCP_SESSIONS_DATABASE_URL=url) as server:
            output = server.output
            assert server.endpoint.startswith("http://127.0.0.1:")
            assert f"claude mcp add --transport http notes {server.endpoint}" in output
            assert "Ctrl-C" in output
            assert "postgresql://postgres:***@" in output
            assert server.stop() == 0
            assert "not-for-logs" not in server.output


class TestLog:
    @pytest.mark.slow
    async def test_says_everything_once(self, folder: Path) -> None:
        """Of an app that logs what all say, nothing of migrations, refusals and sessions is heard but our own words."""
        (folder / "talkative.py").write_text(TALKATIVE)
        with serving(folder, "talkative:server", "--no-access-log") as server:
            async with connected(server.endpoint) as connection:
                pass
            with httpx2.Client(headers=in_session("never-was")) as http:
                assert http.post(server.endpoint, json=PING).status_code == 404
            session = await live_session(url_in(folder), connection.session_id)
            assert session is not None
            assert server.stop() == 0
        _, *logged = server.output.partition("\nINFO: ")[2].splitlines()
        assert f"INFO:     session created (session {session.short_digest})" in logged
        assert all(line.startswith("INFO:     ") for line in logged), server.output
        assert server.output.startswith("serving talkative:server\n")

    @pytest.mark.slow
    async def test_says_all_at_debug(self, folder: Path) -> None:
        """At DEBUG, others are not kept from repeating it."""
        (folder / "talkative.py").write_text(TALKATIVE)
        with serving(folder, "talkative:server", "--log-level", "debug", COLUMNS="300") as server:
            await until(lambda: "StreamableHTTP session manager started" in server.output)

    @pytest.mark.slow
    def test_has_no_control_characters(self, folder: Path) -> None:
        """What a foreign hand puts into an error text steers no terminal, in a line of ours or in a traceback."""
        (folder / "rude.py").write_text(
            "from mcp_sessions.asgi import DurableSessions\n"
            "from mcp_sessions.errors import InvalidOwnerError\n"
            "from notes import server\n"
            "def owner(scope):\n"
            "    rude = InvalidOwnerError('a \\x1b[31mred\\nINFO: line')\n"
            "    raise rude if scope['query_string'] else RuntimeError('a \\x1b[32mgreen one')\n"
            "app = DurableSessions(server.streamable_http_app(), owner=owner)\n"
        )
        with serving(folder, "rude:app") as server:
            assert httpx2.post(f"{server.endpoint}?q", json=PING).status_code == 403
            assert httpx2.post(server.endpoint, json=PING).status_code == 500
            assert server.stop() == 0
        assert r"a \x1b[31mred\nINFO: line" in server.output
        assert r"a \x1b[32mgreen one" in server.output
        assert "\x1b" not in server.output


class TestRefusalToStart:
    @pytest.mark.slow
    def test_on_a_schema_that_is_behind(self, folder: Path, empty_postgres_url: str) -> None:
        """A Postgres database that was not migrated is left as it is: exit code 4, and the command to run."""
        with Serve(folder, "--workers", "2", "--database-url", empty_postgres_url) as server:
            assert server.exit_code() == 4
            assert "run 'mcp-sessions db upgrade'" in server.output
            assert "endpoint" not in server.output

    @pytest.mark.slow
    def test_on_a_database_that_is_away(self, folder: Path) -> None:
        """A database that cannot be reached: exit code 3, and its name."""
        with Serve(folder, "--database-url", "postgresql://nobody@127.0.0.1:1/none") as server:
            assert server.exit_code() == 3
            assert "127.0.0.1:1/none" in server.output

    @pytest.mark.slow
    def test_on_a_port_that_is_taken(self, folder: Path) -> None:
        """A port that somebody listens at: exit code 2, and what to do."""
        with serving(folder) as first:
            port = str(first.address[1])
            with Serve(folder, "--port", port) as second:
                assert second.exit_code() == 2
                assert f"port {port} of 127.0.0.1 is taken" in second.output

    @pytest.mark.slow
    def test_on_an_address_that_is_none(self, folder: Path) -> None:
        """An empty address, as of a variable that is not set, is not taken for everywhere."""
        with Serve(folder, "--host", "") as server:
            assert server.exit_code() == 2
            assert "--host is empty" in server.output

    @pytest.mark.parametrize("workers", ["1", "2"])
    @pytest.mark.slow
    def test_when_the_app_fails(self, folder: Path, workers: str) -> None:
        """An app that fails to start ends the server with 1 and its own message, whatever the number of workers."""
        with Serve(folder, "notes:failing", "--path", "/mcp", "--workers", workers) as server:
            assert server.exit_code() == 1
            assert "no flour in the house" in server.output


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.slow
def test_serves_without_standard_streams(folder: Path, workers: str) -> None:
    """Where a supervisor has closed standard input and output, it serves all the same."""
    port = str(free_port())
    closed = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-m", "mcp_sessions", "serve", "notes:server"]
    command = [*closed, "--workers", workers, "--port", port]

    def is_ready() -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        return False

    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            poll(is_ready, seconds=50, waiting_for="the server")
        finally:
            process.terminate()
        assert process.wait(30) == 0


@pytest.mark.timeout(400)  # five workers start, one after the other, on a machine that may be busy
@pytest.mark.slow
async def test_any_of_its_workers_serves_a_session(folder: Path) -> None:
    """Two workers answer in one session; one that dies is replaced, and both at SIGHUP, and the session goes on."""
    with serving(folder, "notes:server", "--workers", "2") as server:
        async with connected(server.endpoint, persistent=True) as connection:
            pids: set[str] = set()
            await meet(connection, pids, 2)
            assert str(server.process.pid) not in pids
            os.kill(int(min(pids)), signal.SIGKILL)
            await meet(connection, pids, 3)
            server.process.send_signal(signal.SIGHUP)
            await meet(connection, pids, 5)
        assert server.stop() == 0
        assert not any(Path("/proc", pid).exists() for pid in pids)


@pytest.mark.long
@pytest.mark.timeout(120)  # of which it waits for sixty-five
async def test_keeps_idle_connections_longer_than_a_proxy(folder: Path) -> None:
    """A connection that was idle for more than a minute takes another request."""
    with serving(folder, "notes:server") as server:
        _, port = server.address
        async with sockets.connected(port) as browser:
            assert (await browser.request("GET", headers=dict([ACCEPT]))).status == 400
            (kept,) = browser.idle
            await asyncio.sleep(65)
            assert not kept.is_closed
            assert (await browser.request("GET", headers=dict([ACCEPT]))).status == 400
            assert kept.requests == 2


@pytest.mark.slow
async def test_single_process_takes_its_own_place_at_sighup(folder: Path) -> None:
    """At SIGHUP a call in flight is answered, nobody is turned away meanwhile, and new code serves at the same port."""
    gate = folder / "gate"
    with serving(folder, "notes:server") as server:
        async with connected(server.endpoint) as connection, httpx2.AsyncClient(timeout=60) as http:
            call = asyncio.create_task(connection.call("wait", gate=str(gate)))
            await until(Path(f"{gate}.reached").exists)
            (folder / "notes.py").write_text((folder / "notes.py").read_text() + "\nprint('the new code')\n")
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: "Shutting down" in server.output)
            headers = in_session(connection.session_id)
            early = asyncio.create_task(http.post(server.endpoint, json=PING, headers=headers))
            Path(f"{gate}.opened").touch()
            assert await call == "waited"
            assert (await early).status_code == 200
            assert await connection.call("pid") == str(server.process.pid)
        assert server.output.count("the new code") == 1
        assert server.stop() == 0


@pytest.mark.slow
async def test_starts_anew_when_a_file_changes(folder: Path) -> None:
    """With `--reload` a changed module is served at the same address, and the session goes on."""
    with serving(folder, "notes:server", "--reload") as server:
        async with connected(server.endpoint) as connection:
            before = await connection.call("pid")
            (folder / "notes.py").write_text((folder / "notes.py").read_text() + "\nprint('the new code')\n")
            # nothing is sent in between: a request may cross with the end of its connection, which HTTP leaves open
            await until(lambda: "the new code" in server.output, patience=120)
            assert await connection.call("pid") != before
        assert server.stop() == 0


@pytest.mark.slow
def test_listens_on_both_protocols(folder: Path) -> None:
    """At ``--host ::`` it is reached over IPv4 and IPv6."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with serving(folder, "notes:server", "--host", "::") as server:
        port = server.address[1]
        for host in ("127.0.0.1", "[::1]"):
            assert httpx2.post(f"http://{host}:{port}/mcp", json=PING).status_code == 400


@pytest.mark.slow
async def test_its_workers_end_with_it(folder: Path) -> None:
    """Killed with SIGKILL, it takes its workers along: they drain, the port is free, and the session lives."""
    gate = folder / "gate"
    with serving(folder, "notes:server", "--workers", "2") as server:
        pids: set[str] = set()
        async with connected(server.endpoint) as connection:
            await meet(connection, pids, 2)
            workers = [psutil.Process(int(pid)) for pid in pids]
            call = asyncio.create_task(connection.call("wait", gate=str(gate)))
            await until(Path(f"{gate}.reached").exists)
            server.process.kill()
            await until(server.refuses_connections)
            Path(f"{gate}.opened").touch()
            assert await call == "waited"
        await until(lambda: all(map(ended, workers)), patience=20)
    assert await live_session(url_in(folder), connection.session_id)


class TestStopSignal:
    @pytest.mark.parametrize(
        ("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("1", signal.SIGINT)]
    )
    @pytest.mark.slow
    async def test_drains(self, folder: Path, workers: str, number: signal.Signals) -> None:
        """At the signal streams end and nobody new is let in; a call in flight is answered, and its session lives."""
        gate = folder / "gate"
        with serving(folder, "notes:server", "--workers", workers) as server:
            async with connected(server.endpoint) as connection, httpx2.AsyncClient(timeout=30) as http:
                headers = await opened(http, server.endpoint)
                async with http.stream("GET", server.endpoint, headers=headers) as stream:
                    assert stream.status_code == 200
                    call = asyncio.create_task(connection.call("wait", gate=str(gate)))
                    await until(Path(f"{gate}.reached").exists)
                    server.process.send_signal(number)
                    async for _ in stream.aiter_bytes():
                        pass
                await until(server.refuses_connections)
                broken_off, _ = await asyncio.wait({call}, timeout=1.5)  # sse-starlette would do so within 0.5 s
                assert not broken_off
                Path(f"{gate}.opened").touch()
                assert await call == "waited"
                assert await asyncio.to_thread(server.exit_code) == 0
        assert await live_session(url_in(folder), connection.session_id)

    @pytest.mark.slow
    async def test_waits_no_longer_than_its_bound(self, folder: Path) -> None:
        """A call that does not end within the drain timeout is broken off, and the server ends."""
        gate = folder / "gate"
        with serving(folder, "notes:server", "--drain-timeout", "0.5s") as server:
            async with connected(server.endpoint) as connection:
                call = asyncio.create_task(connection.call("wait", gate=str(gate)))
                await until(Path(f"{gate}.reached").exists)
                began = asyncio.get_running_loop().time()
                server.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.exit_code) == 0
                assert asyncio.get_running_loop().time() - began < 5
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
        assert await live_session(url_in(folder), connection.session_id)


async def test_migrates_an_older_file(folder: Path) -> None:
    """An SQLite file of an older schema revision is migrated once, before the workers start; its sessions live on."""
    async with SessionManager.open(url_in(folder), scheduled_cleanup=False) as sessions:
        session_id = await sessions.create_session(tenant_id="acme")
    await schema.downgrade(sessions.settings, "0003")
    with serving(folder, "--workers", "2") as server:
        assert f"at schema revision {schema.head_revision()}" in server.output
        assert server.stop() == 0
    assert await live_session(url_in(folder), session_id)


@pytest.mark.slow
async def test_servers_meet_in_postgres(folder: Path, postgres_url: str) -> None:
    """What one server opened, another one on the same database serves; after its DELETE, both answer 404."""
    with (
        serving(folder, "notes:server", "--database-url", postgres_url) as first,
        serving(folder, "notes:server", "--database-url", postgres_url) as second,
    ):
        async with connected(first.endpoint) as connection:
            pass
        with httpx2.Client(headers=in_session(connection.session_id)) as http:
            for server in (second, first):
                assert http.post(server.endpoint, json=PING).status_code == 200
            assert http.delete(second.endpoint).status_code == 204
            for server in (second, first):
                assert http.post(server.endpoint, json=PING).status_code == 404
