"""The examples of the README and of the pages in ``docs/``, as a reader finds them there."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Page:
    """One page and its blocks of code."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (ROOT / name).read_text()

    def blocks(self, language: str) -> list[str]:
        """Return all blocks in a language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def run_block_with(self, text: str) -> dict[str, Any]:
        """Run the one block of Python that has this text, and return the names it defines."""
        (found,) = [each for each in self.blocks("python") if text in each]
        names: dict[str, Any] = {"__name__": "example"}
        sys.modules["example"] = type(sys)("example")  # where the SDKs look up annotations
        try:
            exec(compile(found, self.name, "exec"), names)  # noqa: S102 - our own page
        finally:
            del sys.modules["example"]
        return names
