"""The wheel: what is in it, and that it migrates and serves far from this checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from mcp_sessions.db.schema.revisions import head_revision
from tests.support.distributions import build
from tests.support.migrating import ROOT
from tests.support.plain import catalog, tables

CODE = """
import asyncio, sys
from pathlib import Path
import mcp_sessions

async def main():
    async with mcp_sessions.SessionManager.open(sys.argv[1], auto_upgrade=sys.argv[2] == "upgrade") as sessions:
        await sessions.create_session(tenant_id="acme")

asyncio.run(main())
print(Path(mcp_sessions.__file__).parent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


def contents(wheel: Path) -> dict[str, bytes]:
    """Return each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources(folder: str, inside: str) -> dict[str, bytes]:
    """Return each file that git would keep of a folder, under its name inside the wheel."""
    found = (file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {f"{inside}/{file.relative_to(ROOT / folder)}": file.read_bytes() for file in found}


def test_the_wheel_holds_the_package_and_its_migrations_alone(wheel: Path) -> None:
    """Package, `py.typed`, migrations, alembic.ini and licence are in the wheel, and nothing else."""
    inside = contents(wheel)
    metadata = {name: inside.pop(name) for name in list(inside) if ".dist-info/" in name}
    assert inside == {
        **sources("src/mcp_sessions", "mcp_sessions"),
        **sources("migrations", "mcp_sessions/migrations"),
        "mcp_sessions/alembic.ini": (ROOT / "alembic.ini").read_bytes(),
    }
    assert inside["mcp_sessions/py.typed"] == b""
    assert {name.partition("/")[2] for name in metadata} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The wheel of an unpacked source distribution is that of the checkout, file for file."""
    with tarfile.open(build(ROOT, tmp_path, "sdist")) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 and older know no filters
        archive.extractall(tmp_path)  # noqa: S202 - made just now
    (unpacked,) = (folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert contents(build(unpacked, tmp_path / "built", "wheel")) == contents(wheel)


class Installation:
    """A virtual environment with the wheel in it, and a folder of its own to be in."""

    def __init__(self, folder: Path) -> None:
        self.cwd = folder / "elsewhere"
        self.cwd.mkdir()
        self.venv = folder / "venv"
        self.python = self.venv / "bin" / "python"

    def run(self, *arguments: str | Path, **variables: str) -> str:
        """Run the environment's Python, without what the tests' own environment says."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = (self.python, *arguments)
        result = subprocess.run(
            command, cwd=self.cwd, env=environment | variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def install(self, *arguments: str | Path) -> None:
        """Install with the pip of the tests' environment, since the new one has none."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "--quiet")
        subprocess.run((*pip, "install", *arguments), check=True, cwd=self.cwd, timeout=600)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """An empty virtual environment."""
    made = Installation(tmp_path)
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", made.venv), check=True, timeout=60)
    return made


async def check(installation: Installation, url: str, migrated: str) -> None:
    """Migrate by `alembic` with the installed scripts, open by the installed package, and compare."""
    package = Path(installation.run("-c", CODE, "sqlite:///own.db", "upgrade").strip())
    assert package.is_relative_to(installation.venv)
    command = ("-m", "alembic", "-c", package / "alembic.ini")
    installation.run(*command, "upgrade", "head", MCP_SESSIONS_DATABASE_URL=url)
    assert head_revision() in installation.run(*command, "-x", f"url={url}", "current")
    installation.run("-c", CODE, url, "refuse")
    assert await catalog(url) == await catalog(migrated)
    assert len((await tables(url))["sessions"]) == 1


@pytest.mark.slow
async def test_an_installed_wheel_migrates_and_serves(
    wheel: Path, installation: Installation, empty_postgres_url: str, postgres_url: str
) -> None:
    """Installed elsewhere, with the dependencies of the tests, the wheel migrates both engines and keeps sessions."""
    installation.install("--no-deps", "--no-index", wheel)
    (packages,) = installation.venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    await check(installation, empty_postgres_url, postgres_url)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_wheel_installed_from_the_index_migrates_and_serves(
    wheel: Path, installation: Installation, empty_postgres_url: str, postgres_url: str
) -> None:
    """The dependencies that the wheel names, taken from the package index, are all it needs."""
    installation.install(wheel)
    await check(installation, empty_postgres_url, postgres_url)
