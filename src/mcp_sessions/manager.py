"""The manager: the life of sessions, from creation to their one end, over the database that all workers share.

The database is the authority; nothing here remembers a session. Absent is an answer (``None``, ``False``, ``0``),
a fault of the database is an error, and what was answered has been committed. Concurrent calls of one process share
statements (see ``batching``): while one is in flight, the next ones gather.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, Unpack

from mcp_sessions.audit.reader import AuditTrail, OutageListener
from mcp_sessions.batching.session_calls import JoinedCalls
from mcp_sessions.cleanup.bulk_ends import BulkEnds
from mcp_sessions.cleanup.run import Cleanup, Progress
from mcp_sessions.cleanup.schedule import CleanupSchedule
from mcp_sessions.client_settings import ClientSettings, ClientSettingsStore, Values
from mcp_sessions.cursors import cursor_behind, place_of
from mcp_sessions.db.backend import Backend
from mcp_sessions.db.engines import backend_of
from mcp_sessions.db.repositories import BulkEnd, Life, SessionRepository, StatisticsRepository
from mcp_sessions.db.repositories.openings import Opening, OpeningRepository
from mcp_sessions.db.schema import revisions as schema
from mcp_sessions.digests import checked_digest, checked_digest_prefix, checked_digests, digest_of, mint_session_id
from mcp_sessions.errors import ConfigurationError, InvalidInputError
from mcp_sessions.instruments import NOBODY, Instruments
from mcp_sessions.logs import log, log_session
from mcp_sessions.messages.mailbox import Mailbox
from mcp_sessions.records.events import CREATED, CREATED_BY_TOOL, EventFilter, EventPage, SessionEvent, checked_actor
from mcp_sessions.records.sessions import (
    OWNER_FIELDS,
    TRUSTED,
    Handshake,
    Owner,
    Session,
    SessionPage,
    Trusted,
    checked_claim,
    checked_owner,
)
from mcp_sessions.records.statistics import Statistics
from mcp_sessions.reencryption import reencrypt
from mcp_sessions.sealing import Sealer
from mcp_sessions.settings import Settings, SettingsByName, load_settings
from mcp_sessions.shared_instance import Shared
from mcp_sessions.state import KeyValues, SessionState, StateCalls
from mcp_sessions.validation import checked_limit, checked_reason


class SessionManager:
    """Creates, resumes and ends MCP sessions in one database; safe to share between all tasks of an event loop.

    It belongs to the event loop and the process that opened it: anywhere else every method raises
    ``ManagerElsewhereError``.

    Make one with ``open``, or share one per process with ``get_instance``. Every method may raise
    ``DatabaseError`` (a fault: whether the session exists is not known; ``DatabaseUnavailableError`` where trying
    again makes sense), ``OverloadedError`` and ``ManagerClosedError``; every one that takes a session id raises
    ``InvalidSessionIdError`` for one that no session can have.
    """

    _shared: "Shared[Any] | None" = None

    def __init__(self, database: Backend, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._sessions = SessionRepository(settings.timeouts)
        self._bulk_ends = BulkEnds(database, self._sessions, settings)
        self._openings = OpeningRepository(settings.timeouts)
        self._sealer = Sealer.of(settings)
        self._calls = JoinedCalls(database, settings, self._sealer)
        self._state_calls = StateCalls(database, settings, self._sealer)
        self._client_settings = ClientSettingsStore(database, self._sealer, settings.statement_timeout)
        self._key_values = KeyValues(database, settings, self._sealer)
        self._trail = AuditTrail(database)
        self._cleanup = Cleanup(database, settings)
        self._schedule = CleanupSchedule(self._cleanup, settings.cleanup_interval)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database_url: str | None = None, *, scheduled_cleanup: bool = True, **settings: Unpack[SettingsByName]
    ) -> AsyncIterator[Self]:
        """Open the database and start the cleanup schedule; leaving stops it and closes every connection.

        Args:
            database_url: ``sqlite:///file.db`` or ``postgresql://...``; by default ``MCP_SESSIONS_DATABASE_URL``,
                else the embedded SQLite file. A SQLite file is created and migrated, a Postgres database is not.
            scheduled_cleanup: False leaves the cleanup to other workers or to ``mcp-sessions cleanup``.
            settings: any field of ``Settings``, such as ``idle_timeout=timedelta(minutes=30)``.

        Raises:
            ConfigurationError: a setting makes no sense; it is named.
            SchemaRevisionError: the database is at another schema revision than this package was built for.
            DatabaseError: the database could not be opened.
        """
        async with cls.open_with(
            load_settings(database_url=database_url, **settings), scheduled_cleanup=scheduled_cleanup
        ) as manager:
            yield manager

    @classmethod
    @asynccontextmanager
    async def open_with(
        cls, settings: Settings, *, scheduled_cleanup: bool = True, instruments: Instruments | None = None
    ) -> AsyncIterator[Self]:
        """Open like ``open``, with settings that were loaded before.

        ``instruments`` are told what happens instead of those that the setting ``telemetry`` means.
        """
        instruments = _instruments_of(settings) if instruments is None else instruments
        await schema.require_revision(settings)
        database = backend_of(settings)
        database.instruments = instruments
        manager = cls(database, settings)
        try:
            instruments.watch(database, settings.pool_size, manager.get_active_session_count)
            if scheduled_cleanup:
                await manager.start_cleanup_interval()
            yield manager
        finally:
            await manager._close()

    async def _close(self) -> None:
        self._database.require_here()
        await self.instruments.unwatch(self._database)
        async with AsyncExitStack() as closing:  # the last of these goes first, and none is left out
            closing.push_async_callback(self._database.close)
            closing.push_async_callback(self._calls.close)
            closing.push_async_callback(self._state_calls.close)
            closing.push_async_callback(self._key_values.close)
            closing.push_async_callback(self.stop_cleanup_interval)

    @property
    def settings(self) -> Settings:
        """The settings this manager works with."""
        return self._settings

    @property
    def database(self) -> Backend:
        """The database this manager works on."""
        return self._database

    @property
    def instruments(self) -> Instruments:
        """Who is told what happens."""
        return self._database.instruments

    @property
    def key_values(self) -> KeyValues:
        """What servers keep beside sessions; ``mcp_sessions.keyvalue.SqlStore`` gives it to others."""
        return self._key_values

    async def check_ready(self) -> None:
        """Make sure that the database answers, and that no migration went back behind what this version needs.

        A newer revision will do: workers go on while a newer version migrates.

        Raises:
            SchemaRevisionError: the schema is older than the one that this version was built for.
        """
        await schema.require_not_older(self._database, self._settings)

    # One session

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        tenant_id: str | None = None,
        client_id: str | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        handshake: Handshake | None = None,
        reason: str = CREATED,
    ) -> str:
        """Store a new session and return its id: the one given, or 256 new random bits.

        ``handshake`` is recorded with it, for a worker that has to restore the session; ``reason`` is for the audit
        trail, and for a session without a handshake.

        Raises:
            SessionExistsError: a session with the given id exists, live or not swept yet; nothing was overwritten.
            InvalidOwnerError: a part of the owner cannot be stored.
        """
        if session_id is None:
            session_id = mint_session_id()
        owner = Owner(tenant_id, client_id, issuer, subject)
        if not (handshake is None or isinstance(handshake, Handshake)):
            raise InvalidInputError(f"handshake must be a Handshake, not {type(handshake).__name__}")
        digest = digest_of(session_id)
        if checked_reason(reason) == CREATED:
            await self._calls.create(digest, owner, handshake)
        elif handshake is None:
            await self._calls.open(Opening(digest, owner, reason))
        else:
            raise InvalidInputError("a session with a handshake is created for no other reason")
        self.instruments.session_created()
        log_session("session_created", "session created", digest, owner)
        return session_id

    async def resume_session(self, session_id: str, owner: Owner) -> Session | None:
        """Return the session if it is live and belongs to this owner, as a whole, and record the activity.

        None says nothing about why: unknown, ended, expired and foreign look exactly alike. A foreign use is no
        activity. The activity is written at most once per touch interval.

        Source: MCP Security Best Practices, Session Hijacking: a session is bound to its user, and verified on
        every request.
        """
        session = await self._calls.use(digest_of(session_id), checked_owner(owner))
        if session is None:
            self.instruments.session_refused()
        else:
            self.instruments.session_resumed()
        return session

    async def touch_session(self, session_id: str) -> bool:
        """Record activity, for trusted code that holds the id; False where there is no live session.

        A stale session is never revived. Like ``resume_session``, it writes at most once per touch interval.
        """
        return await self._calls.use(digest_of(session_id), TRUSTED) is not None

    async def is_session_valid(self, session_id: str) -> bool:
        """Tell whether a live session has this id, for trusted code; records no activity."""
        return await self.get_session_metadata(session_id) is not None

    async def get_session_metadata(self, session_id: str) -> Session | None:
        """Return the live session with this id, for trusted code; records no activity."""
        return await self._calls.find(digest_of(session_id))

    async def get_handshake(self, digest: bytes) -> Handshake | None:
        """Return the handshake recorded with a session; None where there is none, or no such session."""
        return await self._calls.handshake(checked_digest(digest))

    async def get_client_settings(self, digest: bytes) -> ClientSettings | None:
        """Return what a session's client has set for it; None where there is no live session."""
        return await self._client_settings.get(checked_digest(digest))

    async def change_client_settings(self, digest: bytes, change: Callable[[Values], Values]) -> ClientSettings | None:
        """Change what a session's client has set, atomically, and return it; None where there is no live session.

        From the return on, every use of the session tells the new ``settings_version``. ``change`` may run several
        times.
        """
        return await self._client_settings.change(checked_digest(digest), change)

    async def terminate_session(
        self,
        session_id: str,
        *,
        owner: Owner | Trusted = TRUSTED,
        reason: str = "terminated",
        actor: str | None = None,
    ) -> bool:
        """End a session; from the return on, no worker serves it again. False where there was no live session.

        Args:
            session_id: the session to end.
            owner: end it only if it belongs to this owner, as a whole; left out by trusted code that holds the id.
            reason: why, for the audit trail.
            actor: who, for the audit trail: ``owner`` where one is given, else ``application`` unless said otherwise.

        Raises:
            InvalidOwnerError: what is given as the owner is none, such as ``None``.
        """
        return await self.terminate_digest(digest_of(session_id), owner=owner, reason=reason, actor=actor)

    async def terminate_digest(
        self,
        digest: bytes,
        *,
        owner: Owner | Trusted = TRUSTED,
        reason: str = "terminated",
        actor: str | None = None,
    ) -> bool:
        """End a session that is known by its digest, like ``terminate_session``."""
        owner = checked_claim(owner)
        if actor is None:
            actor = "application" if owner is TRUSTED else "owner"
        ended = await self._calls.end(
            checked_digest(digest), owner, reason=checked_reason(reason), actor=checked_actor(actor)
        )
        if ended is not None:
            self.instruments.session_ended(ended.created_at)
            log_session("session_terminated", "session terminated", ended.digest, ended.owner, reason=reason)
        return ended is not None

    def state(self, session: Session) -> SessionState:
        """Return the state of a session: JSON values that belong to it and end with it; asks nothing yet.

        Raises:
            InvalidInputError: this is no ``Session``, as ``resume_session`` returns it.
        """
        return SessionState(self._state_calls, session)

    async def show_state(self, session: Session, *, reason: str = "shown", actor: str = "operator") -> dict[str, Any]:
        """Return all values of a session's state for a person to see, which leaves a ``state_read`` event.

        Raises:
            SessionEndedError: the session has ended, or has expired.
            InvalidInputError: the reason or the actor cannot be recorded.
        """
        life = Life(session.digest, session.created_at, session.owner)
        return await self._state_calls.shown(life, reason=checked_reason(reason), actor=checked_actor(actor))

    # What a worker holds

    async def touch_digests(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Record activity of these sessions, and return the digests of those that are live.

        For a worker with requests in flight: like ``touch_session``, any number at once and without their ids. A
        session whose row another transaction keeps locked counts as live, and its activity is left unrecorded.

        Raises:
            InvalidInputError: one of them is not 32 bytes; nothing was recorded.
        """
        return await self._calls.use_all(checked_digests(digests))

    async def live_digests(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Return those of these digests whose sessions are live; records no activity.

        Raises:
            InvalidInputError: one of them is not 32 bytes.
        """
        return await self._calls.find_all(checked_digests(digests))

    # Many sessions

    async def terminate_sessions(
        self,
        *,
        tenant_id: str | None = None,
        client_id: str | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        reason: str = "revoked",
        actor: str = "application",
        progress: Progress | None = None,
    ) -> int:
        """End every live session of a tenant, a client or a user, and return how many.

        ``reason`` and ``actor`` are for the audit trail.

        Every session whose creation was acknowledged before the call is ended, in bounded transactions; if the
        database fails in between, those ended stay ended, and the call can be repeated. ``progress`` is told after
        each of them how many were ended so far.

        Raises:
            InvalidInputError: no filter was given; ``clear_all_sessions`` is for all.
        """
        filters = _filters(tenant_id=tenant_id, client_id=client_id, issuer=issuer, subject=subject)
        if not filters:
            raise InvalidInputError("name at least one of tenant_id, client_id, issuer and subject")
        bulk = BulkEnd("revoked", checked_reason(reason), checked_actor(actor), filters, live_only=True)
        count = await self._bulk_ends.run(bulk, progress)
        log(
            logging.INFO,
            "sessions_terminated",
            "%(count)s sessions terminated",
            count=count,
            reason=reason,
            **filters,
        )
        return count

    async def clear_all_sessions(
        self, *, reason: str = "cleared", actor: str = "application", progress: Progress | None = None
    ) -> int:
        """Remove every session of every tenant, expired ones too, and return how many: the emergency exit."""
        count = await self._bulk_ends.run(
            BulkEnd("cleared", checked_reason(reason), checked_actor(actor), {}, live_only=False), progress
        )
        log(logging.WARNING, "sessions_cleared", "all %(count)s sessions cleared", count=count)
        return count

    async def list_sessions(
        self,
        *,
        tenant_id: str | None = None,
        client_id: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> SessionPage:
        """Return live sessions, newest first, in pages of ``limit`` (1 to 1000), with digests and without ids.

        ``cursor`` is the ``next_cursor`` of the page before. Sessions that come and go meanwhile move no other
        session from one page to another.

        Raises:
            InvalidInputError: the limit is out of bounds, or the cursor is not one of ours.
        """
        checked_limit(limit)
        filters = _filters(tenant_id=tenant_id, client_id=client_id, subject=subject)
        after = None if cursor is None else place_of(cursor, checked_digest, method="list_sessions")
        page = partial(self._sessions.page, filters=filters, limit=limit + 1, after=after)
        sessions = await self._database.report(page)
        shown = tuple(sessions[:limit])
        more = len(sessions) > limit
        return SessionPage(shown, cursor_behind(shown[-1].created_at, shown[-1].digest) if more else None)

    async def find_sessions(self, digest_prefix: str, *, limit: int = 2) -> list[Session]:
        """Return at most ``limit`` (1 to 1000) live sessions whose digest begins with these hex digits.

        Raises:
            InvalidInputError: the prefix is not 1 to 64 hex digits, or the limit is out of bounds.
        """
        prefix = checked_digest_prefix(digest_prefix)
        return await self._database.report(
            partial(self._sessions.find_by_prefix, prefix=prefix, limit=checked_limit(limit))
        )

    async def found_by_handle(self, sessions: Sequence[Session]) -> frozenset[bytes]:
        """Return the digests of those sessions that a tool created for a handle, as the audit trail has it."""
        created_for = partial(self._openings.created_for, sessions=sessions, reason=CREATED_BY_TOOL)
        return frozenset(await self._database.report(created_for))

    async def get_active_session_count(self, *, tenant_id: str | None = None, client_id: str | None = None) -> int:
        """Count the live sessions, by tenant or client if given; an expired row that is not swept does not count."""
        filters = _filters(tenant_id=tenant_id, client_id=client_id)
        return await self._database.report(partial(self._sessions.count_live, filters=filters))

    # The audit trail

    async def list_events(
        self, wanted: EventFilter | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        """Return events of the audit trail, newest first, in pages of ``limit`` (1 to 1000).

        ``cursor`` is the ``next_cursor`` of the page before. New events move no other from one page to another.

        Raises:
            InvalidInputError: the limit is out of bounds, or the cursor is not one of ours.
        """
        return await self._trail.page(wanted or EventFilter(), limit=limit, cursor=cursor)

    def follow_events(
        self, wanted: EventFilter | None = None, *, last: int = 0, outage: OutageListener | None = None
    ) -> AsyncIterator[list[SessionEvent]]:
        """Return the ``last`` events there are (0 to 1000), then all new ones as they come, in batches, without end.

        An event comes once, at most a second after it was committed, in the order of ``event_id`` save for those
        of transactions that took longer than others; one of a transaction of over 15 seconds may be missed, and
        stands in ``list_events``. ``outage`` is called with the fault where the database goes away, and with
        ``None`` once it is back: nothing is lost in between, and nothing comes twice.

        Raises:
            DatabaseUnavailableError: the database is out of reach, and no ``outage`` was given to be told so.
        """
        return self._trail.follow(wanted or EventFilter(), last=last, outage=outage)

    async def stats(self) -> Statistics:
        """Return the numbers that an operator looks at first: what is live, and what the last day brought.

        Its cost grows with the sessions there are and with the events of a day, not with the length of the trail.
        """
        return await self._database.report(StatisticsRepository().read)

    # Messages between workers

    @asynccontextmanager
    async def open_mailbox(self) -> AsyncIterator[Mailbox]:
        """Make this process a worker that others can leave messages for, until the context is left.

        It has a row in ``workers`` meanwhile, whose lease it moves on, and on Postgres a connection that listens.
        """
        mailbox = Mailbox(self._database, self._settings)
        async with mailbox.opened():
            yield mailbox

    # Cleanup

    async def cleanup_stale_sessions(self, *, progress: Progress | None = None) -> int:
        """Run one cleanup now, after one that is under way elsewhere, and return how many sessions it removed.

        ``progress`` is told after each batch how many were removed so far.
        """
        return await self._cleanup.run(progress)

    async def start_cleanup_interval(self) -> None:
        """Start the cleanup schedule: one run every cleanup interval, by one worker of all. ``open`` does it."""
        self._database.require_open()
        self._schedule.start()

    async def stop_cleanup_interval(self) -> None:
        """Stop the cleanup schedule after the batch that is in flight. Leaving ``open`` does it."""
        self._database.require_here()
        await self._schedule.stop()

    # Encryption

    async def reencrypt(self, *, progress: Progress | None = None) -> int:
        """Seal all that is stored with the first of the keys, and return how many texts were not sealed with it.

        In bounded batches; ``progress`` is told after each of them how many so far.

        Raises:
            ConfigurationError: no keys are set.
            EncryptionError: a text was sealed with a key that is missing, or was changed; what was done stays done.
        """
        return await reencrypt(self._database, self._sealer, progress)

    # One for the process

    @classmethod
    async def get_instance(cls, database_url: str | None = None, **settings: Unpack[SettingsByName]) -> Self:
        """Return the one manager of this process, opened by the first call; for code with no place to pass one.

        A later call may name no settings, or the same ones.

        Raises:
            ConfigurationError: a later call names other settings than the first; those that differ are named.
            ManagerElsewhereError: it was opened on another event loop, which is still there.
        """
        wanted = load_settings(database_url=database_url, **settings)
        if (shared := cls._shared) is None or shared.is_over:
            shared = cls._shared = Shared(cls.open_with(wanted), wanted)
        named = {*settings, *(["database_url"] if database_url is not None else [])}
        if different := sorted(name for name in named if getattr(wanted, name) != getattr(shared.settings, name)):
            raise ConfigurationError(
                f"the manager of this process was opened with another {', '.join(different)}; "
                "call reset_instance() first, or open a manager of your own"
            )
        manager: Self = await shared.opened()
        return manager

    @classmethod
    async def reset_instance(cls) -> None:
        """Close the one manager of this process, if there is one; the next ``get_instance`` opens another.

        Raises:
            ManagerElsewhereError: it was opened on another event loop, which is still there; it stays open.
        """
        if (shared := cls._shared) is None or shared.is_over:
            cls._shared = None
            return
        shared.require_here()
        cls._shared = None
        await shared.close()


def _instruments_of(settings: Settings) -> Instruments:
    """Return what the setting ``telemetry`` means; where it is off, nothing of OpenTelemetry is imported.

    Raises:
        ConfigurationError: it is on, and OpenTelemetry is not installed.
    """
    if not settings.telemetry:
        return NOBODY
    try:
        from mcp_sessions.telemetry import shared_instruments  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"telemetry (MCP_SESSIONS_TELEMETRY) needs {error.name}, which is not installed: "
            "pip install 'mcp-sessions[telemetry]'"
        ) from None
    return shared_instruments()


def _filters(**parts: str | None) -> dict[str, str]:
    """Return the filters that were given, each checked like the part of an owner that it is."""
    owner = Owner(**parts)
    return {name: value for name in OWNER_FIELDS if (value := getattr(owner, name)) is not None}
