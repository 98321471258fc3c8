"""What commands ask of whoever runs them: a session id, which is a secret, and a yes before what cannot be undone."""

import sys

import typer
from rich.console import Console
from rich.prompt import Confirm, Prompt
from rich.text import Text

from mcp_sessions.digests import SESSION_ID_MAX_LENGTH
from mcp_sessions.errors import ConfigurationError, InvalidInputError
from mcp_sessions.logs import printable

_MORE_THAN_ANY_ID = 4 * SESSION_ID_MAX_LENGTH


def session_id_from_stdin() -> str:
    """Return the one session id on standard input; a terminal is asked for it and does not show it.

    Raises:
        InvalidInputError: standard input is empty. What is wrong with an id, the manager says.
    """
    if sys.stdin is None:  # closed
        raise _no_id()
    if sys.stdin.isatty():
        return Prompt.ask("Session id (not shown)", password=True, console=Console(stderr=True)).strip()
    # Bytes: whatever is piped must not fail to decode, or else its traceback might show it.
    session_id = sys.stdin.buffer.read(_MORE_THAN_ANY_ID).decode("latin-1").strip()
    if not session_id:
        raise _no_id()
    return session_id


def _no_id() -> InvalidInputError:
    return InvalidInputError(
        "standard input is empty: pipe a session id into the command, or name a digest as its argument"
    )


def confirm(question: str, *, yes: bool) -> None:
    """Return if the answer is yes, given in advance or now; end the command otherwise.

    Raises:
        ConfigurationError: there is no terminal to ask at.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError("this asks for a confirmation, and there is no terminal to ask at: add --yes")
    if not Confirm.ask(Text(printable(question)), default=False, console=Console(stderr=True)):
        raise typer.Abort
