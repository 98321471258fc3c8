"""Settings: where they come from, how durations are written, and what is said of those that make no sense."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from mcp_sessions.asgi.settings import HttpSettings, HttpSettingsByName
from mcp_sessions.errors import ConfigurationError
from mcp_sessions.settings import Settings, SettingsByName, load, load_settings


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty folder, where no `.env` of a developer lies."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Where they come from


def test_without_anything_the_defaults_hold() -> None:
    """The defaults are the embedded SQLite file, 30 minutes idle, no absolute timeout, a touch a minute."""
    settings = load_settings()
    assert settings.database_url == "sqlite:///mcp-sessions.db"
    assert settings.timeouts.idle == timedelta(minutes=30)
    assert settings.timeouts.absolute is None
    assert settings.timeouts.touch_interval == timedelta(minutes=1)


def test_code_wins_over_the_environment_and_that_over_the_file(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting is taken from code, else from the environment, else from `.env`."""
    (own_folder / ".env").write_text(
        "MCP_SESSIONS_POOL_SIZE=9\nMCP_SESSIONS_MAX_BATCH=4\nMCP_SESSIONS_IDLE_TIMEOUT=5s\n"
    )
    monkeypatch.setenv("MCP_SESSIONS_POOL_SIZE", "30")
    monkeypatch.setenv("MCP_SESSIONS_MAX_BATCH", "40")
    settings = load_settings(pool_size=300)
    assert (settings.pool_size, settings.max_batch, settings.idle_timeout) == (300, 40, timedelta(seconds=5))


def test_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller's None leaves a setting to the environment."""
    monkeypatch.setenv("MCP_SESSIONS_DATABASE_URL", "sqlite:///named.db")
    assert load_settings(database_url=None).database_url == "sqlite:///named.db"


def test_an_empty_variable_counts_as_not_set(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable without a value leaves a setting to `.env`, and there to the default; so it does for serving."""
    (own_folder / ".env").write_text("MCP_SESSIONS_POOL_SIZE=9\nMCP_SESSIONS_IDLE_TIMEOUT=\n")
    for name in ("ABSOLUTE_TIMEOUT", "DATABASE_URL", "POOL_SIZE", "HTTP_PATH", "HTTP_TENANT_CLAIM"):
        monkeypatch.setenv(f"MCP_SESSIONS_{name}", "")
    settings = load_settings()
    assert (settings.absolute_timeout, settings.idle_timeout) == (None, timedelta(minutes=30))
    assert (settings.database_url, settings.pool_size) == ("sqlite:///mcp-sessions.db", 9)
    assert (load(HttpSettings, {}).path, load(HttpSettings, {}).tenant_claim) == (None, None)


def test_settings_cannot_be_changed() -> None:
    """What was validated once stays so."""
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.pool_size = 1


def test_a_file_that_cannot_be_read_is_told(own_folder: Path) -> None:
    """A `.env` that is no text is an error of ours that names it."""
    (own_folder / ".env").write_bytes(b"MCP_SESSIONS_POOL_SIZE=\xff")
    with pytest.raises(ConfigurationError, match=r"^\.env in the current folder cannot be read"):
        load_settings()


def types_of(kind: type[BaseSettings]) -> dict[str, object]:
    """Return the type of each setting, without what validates it."""
    hints = get_type_hints(kind)
    return {name: hints[name] for name in kind.model_fields}


def test_type_checkers_know_the_settings_there_are() -> None:
    """Named arguments have the names and the types of the settings; the database's URL is an argument of its own."""
    of_sessions = types_of(Settings)
    assert of_sessions.pop("database_url") is str
    assert get_type_hints(SettingsByName) == of_sessions
    assert get_type_hints(HttpSettingsByName) == of_sessions | types_of(HttpSettings)


def test_no_argument_by_name_is_required() -> None:
    """What is not given is left to the environment."""
    assert not SettingsByName.__required_keys__ | HttpSettingsByName.__required_keys__


# Durations


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
        ("1.5h", timedelta(minutes=90)),
        (" 30M ", timedelta(minutes=30)),
        ("90", timedelta(seconds=90)),
        ("0.5", timedelta(milliseconds=500)),
        ("PT30M", timedelta(minutes=30)),
        ("P1D", timedelta(days=1)),
        ("00:30:00", timedelta(minutes=30)),
    ],
)
def test_durations_are_written_in_many_ways(monkeypatch: pytest.MonkeyPatch, written: str, meant: timedelta) -> None:
    """In the environment and in code, a duration is a number with a unit, of seconds, or ISO 8601."""
    assert load(Settings, {"idle_timeout": written}).idle_timeout == meant
    monkeypatch.setenv("MCP_SESSIONS_IDLE_TIMEOUT", written)
    assert load_settings().idle_timeout == meant


@pytest.mark.parametrize("written", ["0", "0s", "PT0S"])
def test_a_touch_interval_of_zero_is_allowed(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """Zero records every use, however it is written."""
    monkeypatch.setenv("MCP_SESSIONS_TOUCH_INTERVAL", written)
    assert load_settings().timeouts.touch_interval == timedelta(0)


def test_a_short_idle_timeout_shortens_the_touch_interval() -> None:
    """Left to itself, the touch interval is at most a tenth of the idle timeout."""
    assert load_settings(idle_timeout=timedelta(seconds=10)).timeouts.touch_interval == timedelta(seconds=1)


# What makes no sense

A_DURATION = "must be a duration: 45s, 30m, 12h, 7d, a number of seconds, or ISO 8601 such as PT30M"
A_POSITIVE_DURATION = "must be above zero and at most 3650 days"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(("idle_timeout", value, A_DURATION) for value in ("", "soon", "30 min", "inf", "nan", "1e3", "\uff11s")),
        *(("idle_timeout", value, A_POSITIVE_DURATION) for value in ("0", "-5m", "4000d", "99999999999999d")),
        ("absolute_timeout", "0s", A_POSITIVE_DURATION),
        ("cleanup_interval", "0", A_POSITIVE_DURATION),
        ("connect_timeout", timedelta(-1), A_POSITIVE_DURATION),
        *(("touch_interval", value, "must be at least zero") for value in ("-1s", "-99999999999999d")),
        ("pool_size", "8", "must be at least 9"),
        ("pool_size", "1001", "must be at most 1000"),
        ("pool_size", "many", "must be a whole number"),
        ("cleanup_batch_size", "1.5", "must be a whole number"),
        ("pgbouncer", "maybe", "must be true or false"),
        ("sqlite_synchronous", "OFF", "must be 'FULL', 'NORMAL' or 'EXTRA'"),
        ("database_url", "", "must not be empty"),
        ("database_url", 5, "must be text"),
        *(
            (
                "database_schema",
                value,
                "must be 1 to 63 ASCII letters, digits and underscores, and not begin with a digit",
            )
            for value in ("", "a b", 'a"b', "1a", "a" * 64, "ä", "a\n")
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_told(name: str, value: object, said: str) -> None:
    """The error names the setting, its environment variable, and what would be right."""
    with pytest.raises(ConfigurationError, match=re.escape(f"{name} (MCP_SESSIONS_{name.upper()}) {said}") + "$"):
        load(Settings, {name: value})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"idle_timeout": "2h", "absolute_timeout": "1h"},
            (
                "idle_timeout (MCP_SESSIONS_IDLE_TIMEOUT) is 2:00:00, and must not be above "
                "absolute_timeout (MCP_SESSIONS_ABSOLUTE_TIMEOUT), which is 1:00:00"
            ),
        ),
        (
            {"idle_timeout": "1m", "touch_interval": "61s"},
            (
                "touch_interval (MCP_SESSIONS_TOUCH_INTERVAL) is 0:01:01, and must not be above "
                "idle_timeout (MCP_SESSIONS_IDLE_TIMEOUT), which is 0:01:00"
            ),
        ),
    ],
)
def test_timeouts_that_contradict_each_other_are_told(given: dict[str, Any], said: str) -> None:
    """The error names both settings, their environment variables and their values."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load_settings(**given)


@pytest.mark.parametrize("written", ["full", "Full", "FULL"])
def test_capitals_do_not_matter(written: str) -> None:
    """`sqlite_synchronous` is understood however it is capitalised."""
    assert load(Settings, {"sqlite_synchronous": written}).sqlite_synchronous == "FULL"


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """One error names all the settings that make no sense."""
    with pytest.raises(ConfigurationError, match=r"idle_timeout .*; pool_size .*"):
        load(Settings, {"idle_timeout": "soon", "pool_size": 0})


def test_an_unknown_setting_is_told_with_those_there_are() -> None:
    """A misspelt setting in code is an error that lists the settings."""
    with pytest.raises(ConfigurationError, match=r"^unknown setting idle_timout; the settings are absolute_timeout, "):
        load(Settings, {"idle_timout": "5m"})


SECRET_URL = "postgresql://user:geheim@host/db"  # noqa: S105 - the secret that must not be shown


@pytest.mark.parametrize("wrong", [{"touch_interval": "1h"}, {"pool_size": 0}])
def test_the_url_is_never_repeated(wrong: dict[str, Any]) -> None:
    """No error, and no representation of settings, shows the password of the database URL."""
    with pytest.raises(ConfigurationError) as ours:
        load_settings(database_url=SECRET_URL, **wrong)
    with pytest.raises(ValidationError) as pydantics:
        Settings(database_url=SECRET_URL, **wrong)
    settings = load_settings(database_url=SECRET_URL)
    for text in (str(ours.value), str(pydantics.value), repr(settings), str(settings)):
        assert "geheim" not in text
