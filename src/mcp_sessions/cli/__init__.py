"""The command line: commands that parse, call the manager or the schema, and print.

Data goes to standard output, readable or as one JSON document; messages, questions and progress go to standard error.
No command takes a session id as an argument or prints one: arguments stay in a shell's history and show in lists of
processes.

``app`` puts the commands together. Each group of them is a module: ``sessions``, ``audit``, ``stats``, ``cleanup``,
``database``, ``demo`` and ``serve``. Helpers of several: ``options`` that they share, ``runner`` from arguments to the
manager and back, ``output``, ``prompts`` and ``exit_codes``. A helper of one: ``audit_output``.
"""

import io
import sys

from mcp_sessions.cli.app import app


def main() -> None:
    """Run the command line of this process; the entry point of ``mcp-sessions``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a tenant that the terminal cannot show is no failure
    app()
