"""Sessions of the past, told in SQL: what a trail looks like whose every answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mcp_sessions.digests import digest_of
from mcp_sessions.records.sessions import Owner
from tests.support.rows import Rows


@dataclass(frozen=True)
class Life:
    """One session: when it was opened and, unless it is still there, how it ended."""

    session_id: str
    owner: Owner
    opened: datetime
    ended: datetime | None = None
    kind: str = "terminated"
    reason: str = "terminated"
    actor: str = "owner"
    last_activity: datetime | None = None
    expires: datetime | None = None


@dataclass(frozen=True)
class Refused:
    """A use of a session that was refused, because the claimed owner is not the session's."""

    life: Life
    claimed: Owner
    occurred: datetime


@dataclass(frozen=True)
class Run:
    """A run of the cleanup."""

    worker: str
    started: datetime
    ended: datetime
    sessions: int = 0
    events: int = 0
    error: str | None = None


EVENT_COLUMNS = (
    "occurred_at, kind, reason, actor, session_digest, tenant_id, client_id, issuer, subject, "
    "session_created_at, is_end, lifetime_seconds"
)
CLAIMED_COLUMNS = "claimed_tenant_id, claimed_client_id, claimed_issuer, claimed_subject"


SESSION_COLUMNS = (
    "session_digest, tenant_id, client_id, issuer, subject, created_at, last_activity_at, expires_at, cleanup_at"
)
RUN_COLUMNS = "run_id, worker, started_at, held_until_at, ended_at, sessions_removed, events_removed, error"


async def tell(rows: Rows, lives: Sequence[Life], refused: Sequence[Refused] = (), runs: Sequence[Run] = ()) -> None:
    """Write the events of these lives, the rows of those that have not ended, and the runs of the cleanup."""
    events = [(life.opened, _created(rows, life)) for life in lives]
    events += [(life.ended, _ended(rows, life, life.ended)) for life in lives if life.ended]
    events += [(each.occurred, _refused(rows, each)) for each in refused]
    values = ", ".join(values for _, values in sorted(events))
    await rows.execute(f"INSERT INTO session_events ({EVENT_COLUMNS}, {CLAIMED_COLUMNS}) VALUES {values}")
    if stored := [_row(rows, life) for life in lives if life.ended is None]:
        await rows.execute(f"INSERT INTO sessions ({SESSION_COLUMNS}) VALUES {', '.join(stored)}")
    if told := [_run(rows, f"run-{number}", run) for number, run in enumerate(runs)]:
        await rows.execute(f"INSERT INTO cleanup_runs ({RUN_COLUMNS}) VALUES {', '.join(told)}")


def _created(rows: Rows, life: Life) -> str:
    at = _time(rows, life.opened)
    return f"({at}, 'created', 'created', 'owner', {_session(rows, life)}, {at}, false, NULL, NULL, NULL, NULL, NULL)"


def _ended(rows: Rows, life: Life, ended: datetime) -> str:
    why = ", ".join(map(_text, (life.kind, life.reason, life.actor)))
    lived = (ended - life.opened).total_seconds()
    return (
        f"({_time(rows, ended)}, {why}, {_session(rows, life)}, {_time(rows, life.opened)}, true, {lived}, "
        "NULL, NULL, NULL, NULL)"
    )


def _refused(rows: Rows, refused: Refused) -> str:
    return (
        f"({_time(rows, refused.occurred)}, 'refused', 'used by another owner', 'foreign', "
        f"{_session(rows, refused.life)}, {_time(rows, refused.life.opened)}, NULL, NULL, {_owner(refused.claimed)})"
    )


def _row(rows: Rows, life: Life) -> str:
    activity = life.last_activity or life.opened
    expires = life.expires or datetime.now(UTC) + timedelta(hours=1)
    times = [_time(rows, each) for each in (life.opened, activity, expires, expires)]
    return f"({_session(rows, life)}, {', '.join(times)})"


def _run(rows: Rows, run_id: str, run: Run) -> str:
    times = [_time(rows, each) for each in (run.started, run.ended, run.ended)]
    return f"('{run_id}', '{run.worker}', {', '.join(times)}, {run.sessions}, {run.events}, {_text(run.error)})"


def _session(rows: Rows, life: Life) -> str:
    digest = digest_of(life.session_id).hex()
    return f"x'{digest}', {_owner(life.owner)}" if rows.on_sqlite else rf"'\x{digest}'::bytea, {_owner(life.owner)}"


def _owner(owner: Owner) -> str:
    return ", ".join(map(_text, (owner.tenant_id, owner.client_id, owner.issuer, owner.subject)))


def _text(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"


def _time(rows: Rows, moment: datetime) -> str:
    text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"'{text}'" if rows.on_sqlite else f"'{text}+00'::timestamptz"
