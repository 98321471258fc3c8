"""Bring a virtual environment up to date with pyproject.toml and constraints.txt, or leave it alone if it is.

Its folder and the extra to install are the arguments.

A stamp inside it tells what it was made from. It is removed before the first change and written after
the last one, so that an environment left half-made by an interrupt is made anew. A lock on the project
folder, which the kernel drops with its holder, lets concurrent runs wait for one another.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / sys.argv[1]
EXTRA = sys.argv[2]
STAMP = VENV / "made-from"


def main() -> None:
    """Check without a lock first: the usual run finds nothing to do, and may not be allowed to write."""
    if _is_current():
        return
    if not os.access(ROOT, os.W_OK):
        sys.exit(f"Cannot write to {ROOT}: run this in a copy of the project that belongs to you.")
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    if not _is_current():
        _make()


def _is_current() -> bool:
    return _stamp() == (_interpreter(), _requirements())


def _stamp() -> tuple[str, ...]:
    """Return what the environment was made from; nothing where it is unfinished, or its Python is gone."""
    if not (VENV / "bin/python").exists():
        return ()
    try:
        return tuple(STAMP.read_text().splitlines())
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _interpreter() -> str:
    """Identify what an environment is bound to: scripts inside it name its folder and its Python."""
    return f"{VENV} {sys.base_prefix} {sys.version.split()[0]}"


def _requirements() -> str:
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _make() -> None:
    print(f"Setting up {VENV.name}; the first time takes about a minute.", file=sys.stderr)
    reusable = _stamp()[:1] == (_interpreter(),)
    STAMP.unlink(missing_ok=True)
    if not reusable:
        _make_empty()
    # In the environment and not as an option, so that it pins the build backend too; relative, since pip
    # splits what it finds there at spaces.
    environment = os.environ | {"PIP_CONSTRAINT": "constraints.txt", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    install = [VENV / "bin/python", "-m", "pip", "install", "--quiet", "--editable", f".[{EXTRA}]"]
    if subprocess.run(install, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit("Installing the dependencies failed, see above. Is a package index in reach?")
    STAMP.write_text(f"{_interpreter()}\n{_requirements()}\n")


def _make_empty() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            "This Python cannot make virtual environments: its venv module is not installed.\n"
            "Install it (Debian and Ubuntu: apt-get install python3-venv), or name another Python:\n"
            "PYTHON=/path/to/python3"
        )
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)


if __name__ == "__main__":
    main()
