"""SQLite's file while it is in use: what calls say when it is deleted or replaced, or is not what it must be."""

import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from mcp_sessions import DatabaseError, DatabaseUnavailableError, Owner, SessionManager
from mcp_sessions.db.schema.revisions import current_revision
from mcp_sessions.settings import Settings
from tests.support.managers import OpenManager
from tests.support.rows import Rows

Happening = Callable[[Path], None]


@pytest.fixture(params=["sqlite"])
def database_url(sqlite_url: str) -> str:
    """The URL of a fresh, migrated file: on Postgres the server holds the files."""
    return sqlite_url


@pytest.fixture
def file(database_url: str) -> Path:
    """The file of the test's database."""
    return Path(database_url.removeprefix("sqlite:///"))


def delete(file: Path) -> None:
    """Remove the file, as somebody does who wants to begin anew."""
    file.unlink()


def delete_all(file: Path) -> None:
    """Remove the file and its companions."""
    for name in ("", "-wal", "-shm"):
        Path(f"{file}{name}").unlink(missing_ok=True)


def move_away(file: Path) -> None:
    """Give the file another name."""
    file.rename(file.with_name("moved.db"))


def replace(file: Path) -> None:
    """Put a copy in its place, as a restored backup is."""
    copy = file.with_name("backup.db")
    shutil.copyfile(file, copy)
    copy.replace(file)


def delete_log(file: Path) -> None:
    """Remove the write-ahead log, taking it for something left over."""
    Path(f"{file}-wal").unlink()


def delete_locks(file: Path) -> None:
    """Remove the shared memory, where the locks are."""
    Path(f"{file}-shm").unlink()


async def read_on(manager: SessionManager) -> None:
    """Ask for a session again and again: the hot reads look only every now and then whether the file is there."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert await manager.is_session_valid("kept")


async def all_fail(manager: SessionManager, named: str) -> None:
    """No call answers or acknowledges anything: each is a fault that says which file is gone, and what to do."""

    def count(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM sessions")).scalar_one())

    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        manager.create_session,
        lambda: manager.is_session_valid("kept"),
        lambda: manager.resume_session("kept", Owner("acme")),
        lambda: manager.terminate_session("kept"),
        manager.clear_all_sessions,
        manager.get_active_session_count,
        manager.list_events,
        lambda: manager.database.read(count),
        lambda: manager.database.write(count),
    )
    for call in calls:
        with pytest.raises(
            DatabaseUnavailableError, match=rf"{named}(-wal|-shm)? was .* while it was in use.* started again"
        ):
            await call()


@pytest.mark.parametrize("first", ["create_session", "is_session_valid", "get_active_session_count"])
@pytest.mark.parametrize("happens", [delete, delete_all, move_away, replace, delete_log, delete_locks])
async def test_a_file_that_goes_away_is_a_fault_for_every_call(
    manager: SessionManager, file: Path, happens: Happening, first: str
) -> None:
    """Once the file or a companion of it is another one, neither a read nor a write succeeds, whichever comes first."""
    await manager.create_session("kept", tenant_id="acme")
    assert await manager.is_session_valid("kept")
    assert await manager.get_active_session_count() == 1
    happens(file)
    with pytest.raises(DatabaseUnavailableError):
        await (read_on(manager) if first == "is_session_valid" else getattr(manager, first)())
    await all_fail(manager, file.name)


async def test_a_deleted_file_is_not_made_again(manager: SessionManager, file: Path) -> None:
    """A connection that is opened later finds no file, and leaves none."""
    delete_all(file)
    await all_fail(manager, file.name)
    assert not file.exists()


async def test_a_manager_opened_after_that_works(open_manager: OpenManager, file: Path, database_url: str) -> None:
    """What is at the file's place now is checked and used by whoever opens it next, and nothing of it is lost."""
    old = await open_manager()
    await old.create_session("kept")
    await Rows(database_url).fetch("PRAGMA wal_checkpoint(TRUNCATE)")
    replace(file)
    with pytest.raises(DatabaseUnavailableError):
        await old.create_session("lost")
    new = await open_manager()
    await new.create_session("new")
    assert await new.is_session_valid("kept")
    assert not await new.is_session_valid("lost")


async def test_a_manager_whose_connections_all_closed_goes_on(manager: SessionManager) -> None:
    """SQLite removes the companions with the last connection; that the next one makes them anew is no fault."""

    def fail(_connection: Connection) -> None:
        raise ValueError("a unit of work that fails, which costs the writer its connection")

    await manager.create_session("kept")
    for _ in range(2):
        with pytest.raises(ValueError, match="costs"):
            await manager.database.write(fail)
        assert await manager.terminate_session(await manager.create_session())
    assert await manager.is_session_valid("kept")


async def test_a_process_that_changes_its_folder_keeps_its_file(
    open_manager: OpenManager, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the folder at the start, for connections that are made later, too."""
    monkeypatch.chdir(file.parent)
    manager = await open_manager(database_url=f"sqlite:///{file.name}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await manager.create_session("kept")
    assert await manager.is_session_valid("kept")
    assert [*Path().iterdir()] == []


@pytest.mark.parametrize("name", ["with space.db", "hash#.db", "größe.db", "file:x.db"])
async def test_any_name_of_a_file(open_manager: OpenManager, file: Path, name: str) -> None:
    """The name of a file may hold what URLs give a meaning to."""
    shutil.copyfile(file, file.with_name(name))
    manager = await open_manager(database_url=f"sqlite:///{file.with_name(name)}")
    await manager.create_session("kept")
    assert await manager.is_session_valid("kept")
    assert await Rows(f"sqlite:///{file.with_name(name)}").count() == 1


async def test_a_link_to_the_file(open_manager: OpenManager, file: Path) -> None:
    """A symbolic link works as the file does; one that is bent to another file is a fault."""
    link, other = file.with_name("link.db"), file.with_name("other.db")
    shutil.copyfile(file, other)
    link.symlink_to(file)
    manager = await open_manager(database_url=f"sqlite:///{link}")
    await manager.create_session("kept")
    link.unlink()
    link.symlink_to(other)
    await all_fail(manager, "link.db")


async def test_a_name_that_looks_like_a_uri(
    open_manager: OpenManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without uri=true, a name that begins with "file:" is a name like any other, and one file from the start."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        manager = await open_manager(database_url="sqlite:///file:x.db")
        await manager.create_session()
    assert {each.name.removesuffix("-wal").removesuffix("-shm") for each in Path().iterdir()} == {"file:x.db"}


async def test_a_uri_with_escapes(open_manager: OpenManager, file: Path) -> None:
    """A file that is named by a URI, with escapes, is the one that is watched."""
    shutil.copyfile(file, file.with_name("a b.db"))
    url = f"sqlite:///file:{file.with_name('a%20b.db')}?uri=true"
    manager = await open_manager(database_url=url)
    await manager.create_session("kept")
    assert await current_revision(Settings(database_url=url)) is not None
    file.with_name("a b.db").unlink()
    await all_fail(manager, "a b.db")


# What a file must be able to do


@pytest.mark.parametrize("option", ["vfs=unix-dotfile", "vfs=unix-none"])
@pytest.mark.parametrize("auto_upgrade", [True, False])
async def test_a_file_without_wal_is_refused(tmp_path: Path, option: str, auto_upgrade: bool) -> None:
    """Where SQLite answers the wish for WAL with another mode, as on a network file system, nothing is opened."""
    (tmp_path / "plain.db").touch()
    with pytest.raises(DatabaseError, match=r"stays in journal mode 'delete'.*network file system") as caught:
        async with SessionManager.open(
            f"sqlite:///file:{tmp_path / 'plain.db'}?{option}&uri=true", auto_upgrade=auto_upgrade
        ):
            pass
    assert not isinstance(caught.value, DatabaseUnavailableError)


async def test_a_file_taken_for_immutable_is_refused(database_url: str) -> None:
    """With immutable=1 SQLite looks at no lock and no log: sessions that ended would be live."""
    with pytest.raises(DatabaseError, match="immutable=1"):
        async with SessionManager.open(f"{database_url.replace('sqlite:///', 'sqlite:///file:')}?immutable=1&uri=true"):
            pass
