"""The settings: from code, from the environment (``MCP_SESSIONS_*``) or from ``.env``, validated once.

Durations are ``timedelta`` in code; in the environment they are a number with a unit (``45s``, ``30m``, ``12h``,
``7d``), a bare number of seconds, or ISO 8601 (``PT30M``).
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, TypedDict, TypeVar, Unpack

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from mcp_sessions.durations import duration_of
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.records.sessions import Timeouts

DEFAULT_DATABASE_URL = "sqlite:///mcp-sessions.db"
ENV_PREFIX = "MCP_SESSIONS_"

_LONGEST = timedelta(days=3650)
_SHORTEST_LIMIT, _LONGEST_LIMIT = timedelta(milliseconds=1), timedelta(days=24)
"""What both databases take as a time limit: whole milliseconds in 31 bits; zero would mean none at all."""

_DEFAULT_TOUCH_INTERVAL = timedelta(minutes=1)
_SCHEMA_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,62}")


def _from_short_form(value: Any) -> Any:
    if isinstance(value, str) and (duration := duration_of(value, unit_required=False)) is not None:
        return duration
    return value


def _from_list(value: Any) -> Any:
    return (
        ",".join(value) if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value) else value
    )


def _in_capitals(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _schema_name(value: str) -> str:
    if not _SCHEMA_NAME.fullmatch(value):
        raise ValueError("must be 1 to 63 ASCII letters, digits and underscores, and not begin with a digit")
    return value


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta(0):
        raise ValueError("must be at least zero")
    return value


def _positive(value: timedelta) -> timedelta:
    if not timedelta(0) < value <= _LONGEST:
        raise ValueError(f"must be above zero and at most {_LONGEST.days} days")
    return value


Duration = Annotated[timedelta, BeforeValidator(_from_short_form), AfterValidator(_not_negative)]


def _for_servers(value: timedelta) -> timedelta:
    if not _SHORTEST_LIMIT <= value <= _LONGEST_LIMIT:
        raise ValueError(f"must be from 1 millisecond to {_LONGEST_LIMIT.days} days")
    return value


PositiveDuration = Annotated[timedelta, BeforeValidator(_from_short_form), AfterValidator(_positive)]
TimeLimit = Annotated[timedelta, BeforeValidator(_from_short_form), AfterValidator(_for_servers)]


class Settings(BaseSettings):
    """All settings of mcp-sessions; ``docs/reference/settings.md`` tells what each is for and when to change it.

    Use ``load_settings``, which turns what is wrong into one ``ConfigurationError``.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: str = Field(default=DEFAULT_DATABASE_URL, min_length=1, repr=False)
    """``sqlite:///file.db`` or ``postgresql://user:password@host/database``."""
    database_schema: Annotated[str, AfterValidator(_schema_name)] | None = None
    """The Postgres schema that holds the tables; by default the first one on the server's ``search_path``."""
    auto_upgrade: bool | None = None
    """Whether opening migrates the schema to this version; by default on SQLite only."""

    idle_timeout: PositiveDuration = timedelta(minutes=30)
    """The longest time without activity before a session expires."""
    absolute_timeout: PositiveDuration | None = None
    """The longest life of a session whatever its activity; none by default."""
    touch_interval: Duration | None = None
    """How often at most activity is written for one session; by default a minute, or a tenth of a short idle
    timeout. Zero records every use."""

    cleanup_interval: PositiveDuration = timedelta(minutes=5)
    """The time between two scheduled cleanup runs of the whole deployment."""
    cleanup_batch_size: int = Field(default=5000, ge=1, le=100_000)
    """The most sessions that one transaction of a cleanup or of a bulk end removes."""
    audit_retention: PositiveDuration = timedelta(days=400)
    """How long the audit trail and the record of cleanup runs are kept."""

    max_state_value: int = Field(default=65_536, ge=1, le=16_777_216)
    """The most bytes of one value of a session's state, as JSON in UTF-8."""
    max_state_entries: int = Field(default=256, ge=1, le=10_000)
    """The most entries that the state of one session has."""
    max_state_size: int = Field(default=1_048_576, ge=1, le=268_435_456)
    """The most bytes of all values of one session's state together."""

    encryption_keys: Annotated[str | None, BeforeValidator(_from_list)] = Field(default=None, repr=False)
    """Keys of 32 bytes in base64, separated by commas, that seal what is stored: the first one seals, all open."""
    encryption_keys_file: str | None = None
    """A file that holds them instead, one a line."""

    worker_lease: PositiveDuration = timedelta(seconds=15)
    """How long a worker that is not heard from is still taken to be alive, by the database's clock."""
    message_retention: PositiveDuration = timedelta(minutes=5)
    """How long messages between workers are kept for those who have not fetched them."""
    listen_url: str | None = Field(default=None, min_length=1, repr=False)
    """A URL of the same Postgres that is no PgBouncer in transaction mode, to listen for wake-ups; by default
    ``database_url`` itself, and behind a PgBouncer none: then workers look every now and then while they wait."""

    telemetry: bool = False
    """Whether what happens is told to OpenTelemetry, as metrics and spans; needs the extra ``telemetry``."""

    pool_size: int = Field(default=12, ge=9, le=1000)
    """The most connections that one process opens."""
    connect_timeout: PositiveDuration = timedelta(seconds=5)
    """How long to wait for a connection, new or from the pool."""
    statement_timeout: TimeLimit = timedelta(seconds=10)
    """How long one statement may take."""
    pgbouncer: bool = False
    """Whether a transaction-mode PgBouncer stands in front of Postgres."""
    sqlite_synchronous: Annotated[Literal["FULL", "NORMAL", "EXTRA"], BeforeValidator(_in_capitals)] = "FULL"
    """``FULL`` survives a loss of power; ``NORMAL`` is faster and may lose the last commits with it."""
    sqlite_busy_timeout: TimeLimit = timedelta(seconds=5)
    """How long to wait for another process that writes to the same SQLite file."""

    max_batch: int = Field(default=256, ge=1, le=5000)
    """The most concurrent calls that are joined into one statement."""
    max_queued: int = Field(default=10_000, ge=1)
    """The most calls of one kind that may wait; one more is turned away with ``OverloadedError``."""

    @model_validator(mode="after")
    def _timeouts_fit_together(self) -> Self:
        self._check_not_above("idle_timeout", "absolute_timeout")
        self._check_not_above("touch_interval", "idle_timeout")
        return self

    def _check_not_above(self, name: str, limit: str) -> None:
        value, most = getattr(self, name), getattr(self, limit)
        if value is not None and most is not None and value > most:
            name, limit = (_with_variable(each, ENV_PREFIX) for each in (name, limit))
            raise ValueError(f"{name} is {value}, and must not be above {limit}, which is {most}")

    @property
    def timeouts(self) -> Timeouts:
        """The three durations that decide when a session expires."""
        touch_interval = self.touch_interval
        if touch_interval is None:
            touch_interval = min(_DEFAULT_TOUCH_INTERVAL, self.idle_timeout / 10)
        return Timeouts(idle=self.idle_timeout, absolute=self.absolute_timeout, touch_interval=touch_interval)


class SettingsByName(TypedDict, total=False):
    """The fields of ``Settings`` as named arguments, beside ``database_url``, for type checkers to know them."""

    database_schema: str | None
    auto_upgrade: bool | None
    idle_timeout: timedelta
    absolute_timeout: timedelta | None
    touch_interval: timedelta | None
    cleanup_interval: timedelta
    cleanup_batch_size: int
    audit_retention: timedelta
    max_state_value: int
    max_state_entries: int
    max_state_size: int
    encryption_keys: str | None
    encryption_keys_file: str | None
    worker_lease: timedelta
    message_retention: timedelta
    listen_url: str | None
    telemetry: bool
    pool_size: int
    connect_timeout: timedelta
    statement_timeout: timedelta
    pgbouncer: bool
    sqlite_synchronous: Literal["FULL", "NORMAL", "EXTRA"]
    sqlite_busy_timeout: timedelta
    max_batch: int
    max_queued: int


Kind = TypeVar("Kind", bound=BaseSettings)


def load_settings(*, database_url: str | None = None, **given: Unpack[SettingsByName]) -> Settings:
    """Return the settings: what is given here wins over the environment, which wins over ``.env``.

    A value of ``None`` counts as not given.

    Raises:
        ConfigurationError: a setting is unknown or makes no sense; every one that is wrong is named, and no value
            of the database URL is repeated.
    """
    return load(Settings, {"database_url": database_url, **given})


def load(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """Return settings of any kind, by the rules of ``load_settings``."""
    if unknown := sorted(given.keys() - kind.model_fields.keys()):
        raise ConfigurationError(
            f"unknown setting {', '.join(unknown)}; the settings are {', '.join(sorted(kind.model_fields))}"
        )
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "").upper()
        raise ConfigurationError("; ".join(_in_words(error, prefix))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f".env in the current folder cannot be read: {error}") from error


def _in_words(error: ValidationError, prefix: str) -> list[str]:
    problems = []
    for detail in error.errors(include_url=False, include_input=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        wrong = _what_is_wrong(detail)
        problems.append(f"{_with_variable(name, prefix)} {wrong}" if name else wrong)
    return problems


def _with_variable(name: str, prefix: str) -> str:
    return f"{name} ({prefix}{name.upper()})"


def _what_is_wrong(detail: ErrorDetails) -> str:
    if (words := _WORDS.get(detail["type"])) is not None:
        return words.format(**detail.get("ctx", {}))
    return detail["msg"].removeprefix("Value error, ")


_A_DURATION = "must be a duration: 45s, 30m, 12h, 7d, a number of seconds, or ISO 8601 such as PT30M"
_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "time_delta_parsing": _A_DURATION,
    "time_delta_type": _A_DURATION,
}
"""What pydantic's kinds of error mean to somebody who sets an environment variable."""
