"""Column types that mean the same on both engines.

Postgres has timestamps; SQLite has text and date functions. A timestamp on SQLite is text in UTC,
``YYYY-MM-DD HH:MM:SS.SSS``: it sorts, and ``datetime()``, ``julianday()`` and ``strftime()`` read it. A duration is a
number of seconds on both: Postgres takes an interval of 24 hours, sent as such, for a day of the calendar.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Dialect, Double, LargeBinary, Text
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import TypeDecorator, TypeEngine

SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f"
"""The ``strftime`` format of a timestamp on SQLite (there ``%f`` is seconds with three decimals)."""

Digest = LargeBinary(32)
"""A SHA-256 digest: BYTEA on Postgres, BLOB on SQLite."""


def utc(value: datetime | str) -> datetime:
    """Return a timestamp of either engine as an aware datetime in UTC."""
    if isinstance(value, str):
        return datetime.fromisoformat(f"{value}+00:00")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def sqlite_text(moment: datetime) -> str:
    """Write an aware datetime as SQLite keeps it."""
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC: TIMESTAMP WITH TIME ZONE on Postgres, sortable text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use the engine's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse naive datetimes: they would mean another moment on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone does not name a moment; use an aware one")
        return value if dialect.name == "postgresql" else sqlite_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read either engine's form as aware UTC."""
        return None if value is None else utc(value)


class Duration(TypeDecorator[timedelta]):
    """A bound duration, to be added to a timestamp: seconds on Postgres, a date-function modifier on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use the engine's own type."""
        return dialect.type_descriptor(Double() if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> Any:
        """Write it as the engine's driver wants it: its seconds, on SQLite in words, such as ``+1800.000 seconds``."""
        if value is None:
            return None
        seconds = value.total_seconds()
        return seconds if dialect.name == "postgresql" else f"{seconds:+.3f} seconds"


class DurationBefore(Duration):
    """A bound duration that lies before the timestamp to which it is added: it is negated as it is bound."""

    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> Any:
        """Write its negative."""
        return super().process_bind_param(None if value is None else -value, dialect)
