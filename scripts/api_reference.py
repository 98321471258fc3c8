"""Makes the API reference: a page for each package that is there to be imported from, out of its docstrings.

A warning meanwhile is an error: a public name that cannot be found, a docstring that cannot be read.
"""

import argparse
import importlib
import typing
import warnings
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pdoc
import pdoc.render
from pydantic_settings import BaseSettings

PACKAGES = ("mcp_sessions", "mcp_sessions.asgi", "mcp_sessions.mcp", "mcp_sessions.fastmcp", "mcp_sessions.keyvalue")
DEFAULT = Path(__file__).resolve().parent.parent / "build" / "docs"


def main() -> None:
    """Make the pages, and say where they are."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description="Make the API reference out of the docstrings.")
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT, help="where to (default: build/docs)")
    folder = parser.parse_args().folder
    warnings.simplefilter("error")
    for package in PACKAGES:
        make_plain(importlib.import_module(package))
    pages = [page for package in PACKAGES for page in (package, rf"!{package}\..+")]
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"mcp-sessions {version('mcp-sessions')}")
    pdoc.pdoc(*pages, output_directory=folder)
    print(folder / "index.html")


def make_plain(package: ModuleType) -> None:
    """Have a package hold the names that it imports when asked for them, and settings name their types alone.

    What checks a setting would stand there with its address in memory; docs/reference/settings.md tells its bounds.
    """
    for name in package.__all__:
        thing = getattr(package, name)
        setattr(package, name, thing)
        if isinstance(thing, type) and issubclass(thing, BaseSettings):
            thing.__annotations__ = typing.get_type_hints(thing)


if __name__ == "__main__":
    main()
