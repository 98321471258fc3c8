"""Settings by name: every front door that takes them knows their names and types."""

from datetime import timedelta
from typing import Any, assert_type

from starlette.applications import Starlette

from mcp_sessions import DurableSessions, SessionManager, Settings
from mcp_sessions.mcp.subscriptions import SqlSubscriptionBus
from mcp_sessions.settings import SettingsByName, load_settings

MINUTE = timedelta(minutes=1)
SHARED: SettingsByName = {"idle_timeout": MINUTE, "pool_size": 9}


async def managers() -> None:
    """Those of ``Settings`` go to a manager, and those of HTTP do not."""
    async with SessionManager.open("sqlite:///a.db", idle_timeout=MINUTE, touch_interval=None) as manager:
        assert_type(manager, SessionManager)
    async with SessionManager.open(database_url=None, scheduled_cleanup=False, **SHARED) as manager:
        assert_type(manager, SessionManager)
    async with SessionManager.open_with(load_settings(database_url=None, **SHARED)) as manager:
        assert_type(manager, SessionManager)
    assert_type(await SessionManager.get_instance("sqlite:///a.db", sqlite_synchronous="FULL"), SessionManager)

    SessionManager.open(idle_timout=MINUTE)  # type: ignore[call-arg]
    SessionManager.open(drain_timeout=MINUTE)  # type: ignore[call-arg]
    SessionManager.open(idle_timeout=60)  # type: ignore[arg-type]
    SessionManager.open(idle_timeout=None)  # type: ignore[arg-type]
    SessionManager.open(pool_size="8")  # type: ignore[arg-type]
    SessionManager.open(sqlite_synchronous="OFF")  # type: ignore[arg-type]
    SessionManager.open("sqlite:///a.db", True)  # type: ignore[call-arg]
    SessionManager.open_with({"pool_size": 9})  # type: ignore[arg-type]
    await SessionManager.get_instance(idle_timout=MINUTE)  # type: ignore[call-arg]
    await SessionManager.get_instance(max_batch=timedelta(1))  # type: ignore[arg-type]
    load_settings(idle_timout=MINUTE)  # type: ignore[call-arg]


def apps(app: Starlette, manager: SessionManager) -> None:
    """Those of both go to ``DurableSessions``."""
    durable = DurableSessions(app, database_url=None, drain_timeout=MINUTE, path="/mcp", **SHARED)
    assert_type(durable, DurableSessions)
    assert_type(durable.settings, Settings)
    DurableSessions(app, idle_timeout=MINUTE, client_delete=False)
    DurableSessions(app, sessions=manager, max_live_sessions=10)

    DurableSessions(app, drain_timout=MINUTE)  # type: ignore[call-arg]
    DurableSessions(app, scheduled_cleanup=False)  # type: ignore[call-arg]
    DurableSessions(app, drain_timeout=10)  # type: ignore[arg-type]
    DurableSessions(app, path=["/mcp"])  # type: ignore[arg-type]
    DurableSessions(app, sessions="sqlite:///a.db")  # type: ignore[arg-type]
    DurableSessions(app, "sqlite:///a.db")  # type: ignore[call-arg]


def buses(manager: SessionManager, anything: dict[str, Any]) -> None:
    """Those of ``Settings`` go to a bus of subscriptions; what is known at run time alone is taken as it comes."""
    SqlSubscriptionBus(manager)
    SqlSubscriptionBus(database_url="sqlite:///a.db", worker_lease=MINUTE)
    SqlSubscriptionBus(**anything)

    SqlSubscriptionBus(worker_leese=MINUTE)  # type: ignore[call-arg]
    SqlSubscriptionBus(worker_lease=15)  # type: ignore[arg-type]
    SqlSubscriptionBus(path="/mcp")  # type: ignore[call-arg]


def objects() -> None:
    """A ``Settings`` made by hand knows its fields, and cannot be changed."""
    settings = Settings(idle_timeout=MINUTE)
    assert_type(settings.idle_timeout, timedelta)
    assert_type(settings.absolute_timeout, timedelta | None)

    settings.pool_sise  # type: ignore[attr-defined]
