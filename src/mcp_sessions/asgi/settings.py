"""The settings of the HTTP layer: from code, from the environment (``MCP_SESSIONS_HTTP_*``) or from ``.env``."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from mcp_sessions.records.sessions import HANDSHAKE_MAX_LENGTH
from mcp_sessions.settings import ENV_PREFIX, PositiveDuration, SettingsByName


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"must begin with a slash, such as /mcp; {path!r} does not")
    return path


class HttpSettings(BaseSettings):
    """What an operator may tune about serving sessions over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix=f"{ENV_PREFIX}HTTP_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    path: Annotated[str, AfterValidator(_absolute)] | None = None
    """The path of the MCP endpoint within the app; by default found by itself."""
    tenant_claim: str | None = Field(default=None, min_length=1)
    """The claim of a verified token that names the tenant."""
    client_delete: bool = True
    """Whether clients may end their sessions with DELETE; otherwise they get 405."""
    check_interval: PositiveDuration = timedelta(seconds=5)
    """How often a worker asks which of the sessions it holds live on: the longest time until streams of a session
    that ended elsewhere are closed here. Also how often what is in flight is recorded as activity."""
    let_go_after: PositiveDuration = timedelta(minutes=5)
    """How long a worker keeps the app's own session for a durable session that nobody uses."""
    max_live_sessions: int = Field(default=1000, ge=1)
    """How many of the app's own sessions a worker keeps; beyond it the least recently used idle one is let go."""
    restore_timeout: PositiveDuration = timedelta(seconds=30)
    """The longest time that a request waits for a restore: for its turn among others, and for the app."""
    drain_timeout: PositiveDuration = timedelta(seconds=10)
    """How long a shutdown waits for requests in flight."""
    drain_on_signal: bool = False
    """Whether open streams end at SIGTERM and SIGINT, and answers in flight do not: for a server that waits for
    them, with a time limit. ``mcp-sessions serve`` does."""
    health: bool = False
    """Whether ``/healthz`` and ``/readyz`` are answered, in front of the app and without authentication.
    ``mcp-sessions serve`` does where the app shows that it has no such routes."""
    max_remembered_body: int = Field(default=HANDSHAKE_MAX_LENGTH, ge=1024, le=HANDSHAKE_MAX_LENGTH)
    """The most bytes of an ``initialize`` and of its answer, which are held in memory to be recorded."""
    max_held_message: int = Field(default=4 * 1024 * 1024, ge=64 * 1024)
    """The most bytes of a server's request to its client, and of an answer to one, which are held in memory to exchange
    their ids: beyond it the request's stream ends, and the answer gets 413. Of any other message on a session 64 KiB
    are held at most."""
    max_held_bodies: int = Field(default=16 * HANDSHAKE_MAX_LENGTH, ge=HANDSHAKE_MAX_LENGTH)
    """The most bytes that a worker holds of all requests together that open sessions or answer the server, the first
    64 KiB of each not counted; what finds no room gets 503."""
    body_timeout: PositiveDuration = timedelta(seconds=30)
    """How long the body of a request that opens a session, or of a long answer to the server, may take to arrive, and
    the first 64 KiB of any other; a slower one gets 408."""


class HttpSettingsByName(SettingsByName, total=False):
    """The fields of ``HttpSettings`` as named arguments, with those of ``Settings``, for type checkers to know them."""

    path: str | None
    tenant_claim: str | None
    client_delete: bool
    check_interval: timedelta
    let_go_after: timedelta
    max_live_sessions: int
    restore_timeout: timedelta
    drain_timeout: timedelta
    drain_on_signal: bool
    health: bool
    max_remembered_body: int
    max_held_message: int
    max_held_bodies: int
    body_timeout: timedelta
