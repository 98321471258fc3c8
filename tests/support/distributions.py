"""Build what is installed, by the project's own build backend."""

import subprocess
import sys
from pathlib import Path


def build(source: Path, to: Path, target: str) -> Path:
    """Build a distribution, `wheel` or `sdist`; it needs no network."""
    command = (sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", to)
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (built,) = to.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[target])
    return built
