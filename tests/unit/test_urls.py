"""Database URLs as people have them: given our drivers, or refused with one sentence that shows no password."""

import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from mcp_sessions import SessionManager
from mcp_sessions.db.engines import reading_engine
from mcp_sessions.db.urls import parse_url, shown, sqlite_file
from mcp_sessions.errors import ConfigurationError, DatabaseError
from mcp_sessions.settings import Settings
from tests.support.door import Door
from tests.support.loops import run_apart
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty folder, from which relative paths count."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder."""
    return {file.name for file in folder.iterdir()}


# Postgres


@pytest.mark.parametrize(
    "url",
    [
        "postgres://user@host/db",
        "postgresql://user@host/db",
        "postgresql+psycopg2://user@host/db",
        "postgresql+asyncpg://user@host/db",
        "POSTGRES://user@host/db",
        " postgres://user@host/db\n",
    ],
)
def test_every_postgres_url_gets_our_driver(url: str) -> None:
    """Whatever driver a URL names, and whatever space surrounds it, asyncpg is what it gets."""
    parsed = parse_url(url)
    assert parsed.drivername == "postgresql+asyncpg"
    assert shown(parsed) == "postgresql://user@host/db"


def test_a_percent_encoded_password_is_decoded() -> None:
    """Characters with a meaning in URLs stand in a password percent-encoded."""
    assert parse_url("postgresql://user:p%40%2F%3A%25@host/db").password == "p@/:%"  # noqa: S105 - an example


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://u:p@a:1,b:2/db", "a:1,b:2"),
        ("postgresql://a,b/db", "a,b"),
        ("postgresql://u@/db?host=a:1&host=b:2", "a:1,b:2"),
        ("postgresql:///db?host=/run/postgresql", "/run/postgresql"),
    ],
)
def test_several_hosts_and_sockets_are_handed_on(url: str, host: str) -> None:
    """Several hosts with their ports, or a folder of sockets, reach asyncpg as its `host` parameter."""
    parsed = parse_url(url)
    assert parsed.query["host"] == host
    assert parsed.database == "db"


def test_of_the_parameters_only_the_place_is_shown() -> None:
    """Host and port are shown wherever they stand in a URL, and no password, wherever it stands."""
    url = "postgresql://user:geheim@/db?host=/run/postgresql&port=5433&password=geheim&sslpassword=geheim"
    assert shown(parse_url(url)) == "postgresql://user:***@/db?host=%2Frun%2Fpostgresql&port=5433"


def test_the_server_that_is_wanted_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of several hosts it is the one that can be written to, unless it is said otherwise: in a word that exists."""

    def target(url: str) -> str:
        return str(parse_url(url).query.get("target_session_attrs", "any"))

    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    (tmp_path / "services").write_text("[many]\nhost=a,b\n[replica]\nhost=a,b\ntarget_session_attrs=standby\n")
    assert target("postgresql://host/db") == target("postgresql://host/db?service=unknown") == "any"
    assert target("postgresql://one,two/db") == target("postgresql:///db?service=many") == "read-write"
    assert target("postgresql:///db?service=replica") == "standby"
    assert target("postgresql://one,two/db?target_session_attrs=any") == "any"
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "")
    assert parse_url("postgresql://host/db").query["target_session_attrs"] == "any"  # the driver takes "" for a word
    assert target("postgresql://one,two/db") == "read-write"
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "master")
    with pytest.raises(ConfigurationError, match="target_session_attrs is 'master'; it can be any, primary"):
        parse_url("postgresql://host/db")


@pytest.mark.parametrize("hosts", ["one:1,", ",one", "one,,two"])
def test_a_host_without_a_name_is_refused(hosts: str) -> None:
    """A comma too many leaves no host to the driver."""
    with pytest.raises(ConfigurationError, match="has no name"):
        parse_url(f"postgresql://user@{hosts}/db")


async def test_a_broken_service_file_is_told_without_its_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A line of it may hold a password."""
    file = tmp_path / "services"
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    for text in ("[here]\nhost=127.0.0.1\npassword=ge%heim\n", "password=geheim\n"):
        file.write_text(text)
        with pytest.raises(DatabaseError, match="service file cannot be read") as raised:
            async with SessionManager.open("postgresql://user@/db?service=here"):
                pass
        assert "heim" not in "".join(traceback.format_exception(raised.value))


def test_ssl_is_given_the_name_that_asyncpg_knows() -> None:
    """`ssl=`, as SQLAlchemy's asyncpg URLs have it, becomes `sslmode=`; what is there already stays."""
    assert dict(parse_url("postgresql://host/db?ssl=require").query) == {"sslmode": "require"}
    assert dict(parse_url("postgresql://host/db?sslmode=disable").query) == {"sslmode": "disable"}


async def select_one(url: str) -> object:
    """Ask a database for 1, by our own engine."""
    engine = reading_engine(Settings(database_url=url))
    try:
        async with engine.connect() as connection:
            return (await connection.exec_driver_sql("SELECT 1")).scalar()
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    "form",
    [
        "postgres://postgres@127.0.0.1:{port}/{database}?sslmode=prefer",
        "postgresql+psycopg2://postgres:any%40thing@127.0.0.1:{port}/{database}?application_name=mine",
        "postgresql://postgres@127.0.0.1:{closed},127.0.0.1:{port}/{database}",
        "postgresql:///{database}?host=127.0.0.1&port={port}&user=postgres&password=geheim",
    ],
)
async def test_a_real_server_is_reached(postgres_server: PostgresServer, postgres_database: str, form: str) -> None:
    """URLs in the forms that people have lead to a real Postgres."""
    url = form.format(port=postgres_server.port, closed=free_port(), database=postgres_database)
    assert await select_one(url) == 1


PIECES = ["geheim", *",:@/%?#[]&=+ \\", "%40", "%2C", "%3a", "%25", "%2F", "%", "ü", "%C3%BC"]
LOGINS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
HOSTS = st.sampled_from(["db.example", "db.example:1", "[::1]:2", "a,b", "a:1,b:2", "[::1]:1,[::2]"])


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """A server that takes down who asks to come in."""
    with Door() as door:
        yield door


@settings(max_examples=300)
@given(user=LOGINS, password=LOGINS, hosts=HOSTS)
def test_a_login_is_read_right_or_refused_unseen(user: str, password: str, hosts: str) -> None:
    """Whatever stands in user and password raw, hosts are hosts, and no part of the password is shown anywhere."""
    login = f"{user.replace('geheim', 'wer')}:{password}"
    try:
        url = parse_url(f"postgresql://{login}@{hosts}/db")
    except ConfigurationError as error:
        said = str(error)
    else:
        said = shown(url)
        assert (url.username, url.password) == tuple(map(unquote, login.partition(":")[::2]))
        assert (url.query.get("host", hosts), url.database) == (hosts, "db")
    assert "geheim" not in said


@settings(max_examples=60)
@given(user=LOGINS, password=LOGINS, in_query=st.booleans())
@pytest.mark.slow
def test_an_encoded_login_reaches_the_server_as_it_is(door: Door, user: str, password: str, in_query: bool) -> None:
    """Percent-encoded, every user and password is what the server gets, from a URL of one host or of several."""
    user = user.replace("geheim", "wer")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    if in_query:
        url = f"postgresql:///db?host=127.0.0.1&port={door.port}&user={quote(user)}&password={quote(password)}"
    else:
        url = f"postgresql://{login}127.0.0.1:{door.port},127.0.0.1:{door.port}/db"
    with pytest.raises(DBAPIError) as refused:
        run_apart(select_one(f"{url}{'&' if in_query else '?'}sslmode=disable"))
    assert (door.user, door.password) == (user, password)
    assert "geheim" not in str(refused.value)
    assert "geheim" not in shown(parse_url(url))


# SQLite


@pytest.mark.parametrize(
    "url",
    ["sqlite:///sessions.db", "sqlite+aiosqlite:///sessions.db", "SQLite:///sessions.db", "sqlite:///./sessions.db"],
)
async def test_a_relative_path_counts_from_the_current_folder(url: str, own_folder: Path) -> None:
    """Three slashes name a file by a relative path."""
    async with SessionManager.open(url, scheduled_cleanup=False):
        assert names_in(own_folder) >= {"sessions.db"}


async def test_an_absolute_path_has_four_slashes(own_folder: Path) -> None:
    """Four slashes name a file by an absolute path, spaces included."""
    file = own_folder / "my sessions.db"
    parsed = parse_url(f"sqlite:///{file}")
    assert parsed.drivername == "sqlite+aiosqlite"
    assert sqlite_file(parsed) == file
    assert await select_one(f"sqlite:///{file}?timeout=1") == 1


# Refused


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("geheim", "is not a database URL"),
        ("user:geheim@host/db", "is not a database URL"),
        ("/var/geheim.db", "is not a database URL"),
        ("sqlite:geheim.db", "is not a database URL"),
        ("postgresql://user:geheim@host:port/db", "is not a database URL"),
        ("postgresql://user:geheim@host:port,host:port/db", "is not a database URL"),
        ("postgresql://user:ge,heim", "is not a database URL"),
        ("postgresql://us/er:geheim@host/db", "write it as .*%2F"),
        ("postgresql://user:ge/heim@host/db", "write it as .*%2F"),
        ("postgresql://user:ge?heim@host/db", "write it as .*%3F"),
        ("postgresql://user:ge#heim@host/db", "write it as .*%23"),
        ("postgresql://user:a@host/db?b=geheim@other", "write it as .*%40"),
        ("postgresql://user:geheim%ff@host/db", "written as %25"),
        ("postgresql://user:geheim%00@host/db", "control character"),
        ("postgresql://user:geheim\n@host/db", "control character"),
        ("mysql://user:geheim@host/db", "unknown engine 'mysql'"),
        ("postgresql://user:ge@heim@host/db", "write it as %40"),
        ("postgresql://user:geheim@host:99999/db", "port 99999"),
        ("sqlite://", "must name a SQLite file"),
        ("sqlite:///", "must name a SQLite file"),
        ("sqlite:///:memory:", "must name a SQLite file"),
        ("sqlite:///file::memory:?uri=true", "must name a SQLite file"),
        ("sqlite:///file:x?mode=memory&uri=true", "must name a SQLite file"),
        ("sqlite://sessions.db", "three slashes"),
        ("sqlite:///missing/sessions.db", "missing, which is no folder; create it first"),
        ("sqlite:///sessions.db?tiemout=5", "unknown parameter tiemout"),
    ],
)
async def test_what_cannot_be_meant_is_refused(url: str, said: str, own_folder: Path) -> None:
    """A URL that cannot be right is refused before anything is opened, without repeating a password."""
    with pytest.raises(ConfigurationError, match=f"^database_url .*{said}") as raised:
        async with SessionManager.open(url):
            pass
    assert "geheim" not in str(raised.value)
    assert "heim@" not in str(raised.value)
    assert names_in(own_folder) == set()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:geheim@127.0.0.1:{closed}/db",
        "postgresql://user@127.0.0.1:{closed}/db?password=geheim",
        "postgresql://user:geheim@127.0.0.1:{open}/missing",
        "postgresql://user:geheim@127.0.0.1:{open}/db?sslmode=sometimes",
        "postgresql://user:geheim@127.0.0.1:{open}/db?mistyped=1",
        "postgresql://user:geheim@/db?host=127.0.0.1&port=mistyped",
        "postgresql://user:geheim@127.0.0.1:77777,127.0.0.1:88888/db",
    ],
)
async def test_a_server_that_is_not_there_is_one_error_of_ours(postgres_server: PostgresServer, url: str) -> None:
    """What only the driver or the server can tell to be wrong is one line without the password."""
    url = url.format(open=postgres_server.port, closed=free_port())
    with pytest.raises(DatabaseError) as raised:
        async with SessionManager.open(url, connect_timeout=timedelta(seconds=2)):
            pass
    assert str(raised.value).startswith("the database postgresql://user")
    assert "geheim" not in str(raised.value)
    assert "\n" not in str(raised.value)
