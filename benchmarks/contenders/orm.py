"""SQLAlchemy as most people write it: a mapped class, and one AsyncSession a call."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self

from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from benchmarks.contenders import table
from benchmarks.contenders.base import (
    IDLE_SECONDS,
    POOL_SIZE,
    TOUCH_INTERVAL_SECONDS,
    migrate,
    require,
)
from benchmarks.population import known_client
from mcp_sessions.db.tables import sessions

_OWNER = ("tenant_id", "client_id", "issuer", "subject")


class _Base(DeclarativeBase):
    pass


class _Row(_Base):
    __table__ = sessions


class SqlAlchemy(table.TableUser):
    """Load the object, look at it, change it, commit."""

    name: ClassVar[str] = "SQLAlchemy"
    settings: ClassVar[str] = (
        f"ORM, one AsyncSession a call, pool of {POOL_SIZE} (on SQLite WAL, synchronous=FULL); get, then change and "
        "commit where the touch is due"
    )

    async def __aenter__(self) -> Self:
        await migrate(self.url)
        scheme = "sqlite+aiosqlite" if self.is_sqlite else "postgresql+asyncpg"
        waits = {"connect_args": {"timeout": 60}} if self.is_sqlite else {}
        self._engine = create_async_engine(
            f"{scheme}:{self.url.partition(':')[2]}", pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60, **waits
        )
        if self.is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _durable)
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()

    async def resume_touching(self, number: int) -> None:
        await self._resume(number, timedelta(0))

    async def resume(self, number: int) -> None:
        await self._resume(number, timedelta(seconds=TOUCH_INTERVAL_SECONDS))

    async def _resume(self, number: int, touch_interval: timedelta) -> None:
        one, now = known_client(number), datetime.now(UTC)
        async with self._session() as session:
            row: Any = await session.get_one(_Row, one.digest)
            owned = one.parts == tuple(getattr(row, name) for name in _OWNER)
            require(owned and row.expires_at > now)
            if row.last_activity_at <= now - touch_interval:
                row.last_activity_at = now
                row.expires_at = now + timedelta(seconds=IDLE_SECONDS)
                await session.commit()

    async def create(self, number: int) -> None:
        now = datetime.now(UTC)
        expiry = now + timedelta(seconds=IDLE_SECONDS)
        async with self._session() as session:
            session.add(
                _Row(
                    session_digest=hashlib.sha256(secrets.token_urlsafe(32).encode()).digest(),
                    **dict(zip(_OWNER, known_client(number).parts, strict=True)),
                    created_at=now,
                    last_activity_at=now,
                    expires_at=expiry,
                    cleanup_at=expiry,
                )
            )
            await session.commit()


def _durable(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # a DBAPI connection
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
