"""What a client sends to one worker and another one waits for.

An answer to a server's request, and the progress of one, name the worker that asked by the beginning of their id, and
are left for it. That a client cancels a call, or that its roots have changed, is sent to every worker: whichever holds
an app session for it hands it to its app. Whoever gets such a message acts in the name of the session that it stands
for, and of no other: the request that brought it was checked like any request on that session.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from mcp_sessions.asgi.app_requests import ask_on
from mcp_sessions.asgi.app_sessions import AppSession, AppSessions
from mcp_sessions.asgi.body import BodyTooLargeError, text_of
from mcp_sessions.asgi.server_requests import PROGRESS, ServerRequests, UnknownAnswerError
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.asgi.types import App
from mcp_sessions.digests import short_digest
from mcp_sessions.logs import log
from mcp_sessions.messages.mailbox import Mailbox, Message

Change = Callable[[Any], Any]

CANCELLED = "notifications/cancelled"
ROOTS_CHANGED = "notifications/roots/list_changed"

_KIND = "client_message"
_MOST_PARTS = 100
"""How many parts of one batch are passed on."""

_LASTING_SECONDS = 0.1
"""How long a call is in flight before it is looked for that its client cancels it at another worker."""

_GIVEN_ID = re.compile(r"(?P<worker>[A-Za-z0-9_-]{12})\.[A-Za-z0-9_-]{22}")


@dataclass(slots=True)
class Split:
    """A client's message or batch, by who waits for what of it.

    ``rest`` is what this worker's app may see: the same object where nothing is left out, None where nothing is left.
    ``addressed`` are parts for one other worker each; ``shared`` are those for every other one.
    """

    rest: Any
    addressed: list[tuple[str, Any]] = field(default_factory=list)
    shared: list[Any] = field(default_factory=list)

    @property
    def concerns_others(self) -> bool:
        """Whether any other worker waits for a part of it."""
        return bool(self.addressed or self.shared)

    @property
    def is_shared(self) -> bool:
        """Whether this worker's app, too, may see nothing but what is sent to every worker."""
        seen = self.rest if isinstance(self.rest, list) else [self.rest]
        return 0 < len(seen) == len(self.shared)


class PeerMessages:
    """The messages of clients that pass between this worker and its peers: the other workers."""

    def __init__(self, app: App, mailbox: Mailbox, app_sessions: AppSessions, settings: HttpSettings) -> None:
        self._app = app
        self._mailbox = mailbox
        self._app_sessions = app_sessions
        self._settings = settings
        self._deliveries: set[asyncio.Task[None]] = set()
        mailbox.on(_KIND, self._receive)

    def split(self, message: Any) -> Split:
        """Tell what of a client's message other workers wait for.

        Raises:
            BodyTooLargeError: it is a batch with more for them than a client has to say at once.

        """
        if not isinstance(message, list):
            return self._split_one(message)
        kept: list[Any] = []
        whole = Split(message)
        for part in message:
            single = self._split_one(part)
            whole.addressed += single.addressed
            whole.shared += single.shared
            if single.rest is not None:
                kept.append(part)
        if len(kept) < len(message):
            whole.rest = kept or None
        if len(whole.addressed) + len(whole.shared) > _MOST_PARTS:
            raise BodyTooLargeError
        return whole

    def _split_one(self, message: Any) -> Split:
        split = Split(None)
        self._assign(message, split)
        if split.rest is not None or not split.addressed:
            split.rest = message
        return split

    @contextmanager
    def waited_for(self, requests: ServerRequests) -> Iterator[Change]:
        """Look for what others leave while a request is in flight that waits for it: it asks, or it lasts long.

        Gives what makes of the app's messages those that the client may see.
        """
        with ExitStack() as waiting:

            def wait() -> None:
                if not lasting.cancelled():
                    lasting.cancel()
                    waiting.enter_context(self._mailbox.waiting())

            def to_client(message: Any) -> Any:
                seen = requests.to_client(message)
                if seen is not message:
                    wait()
                return seen

            lasting = asyncio.get_running_loop().call_later(_LASTING_SECONDS, wait)
            waiting.callback(lasting.cancel)
            yield to_client

    async def pass_on(self, digest: bytes, split: Split) -> None:
        """Leave for other workers what they wait for.

        Raises:
            UnknownAnswerError: an answer names a worker that does not live any more: nobody waits for it.
            BodyTooLargeError: it is nested too deeply.
            DatabaseError: the database failed; the client may send it again.
        """
        to_all = [self._mailbox.send(_KIND, text_of(part), session_digest=digest) for part in split.shared]
        to_one = [
            self._mailbox.send(_KIND, text_of(part), session_digest=digest, worker_id=worker_id)
            for worker_id, part in split.addressed
        ]
        stored = (await asyncio.gather(*to_all, *to_one))[len(to_all) :]
        for is_stored, (_, part) in zip(stored, split.addressed, strict=True):
            if not is_stored and "method" not in part:
                raise UnknownAnswerError

    async def aclose(self) -> None:
        """Stop what is still being handed to the app, which is about to shut down."""
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)

    def _assign(self, part: Any, split: Split) -> None:
        if not isinstance(part, dict):
            split.rest = part
            return
        method = part.get("method")
        worker_id = _worker_named(part, method)
        if worker_id is not None and worker_id != self._mailbox.worker_id:
            split.addressed.append((worker_id, part))
            return
        split.rest = part
        if method in (CANCELLED, ROOTS_CHANGED):
            split.shared.append(part)

    def _receive(self, message: Message) -> None:
        digest = message.session_digest
        app_session = None if digest is None else self._app_sessions.peek(digest)
        if digest is None or app_session is None:
            return  # this worker's app knows nothing of that session
        task = asyncio.create_task(self._deliver(digest, app_session, json.loads(message.body)))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, digest: bytes, app_session: AppSession, part: Any) -> None:
        try:
            seen = app_session.requests.to_app(part)
            if seen is None:
                return
            async with asyncio.timeout(self._settings.restore_timeout.total_seconds()):
                await self._hand_over(app_session, part, seen)
        except UnknownAnswerError as error:
            _warn(digest, "answer_dropped", error)
        except Exception as error:  # noqa: BLE001 - any app's, and nobody waits to hear of it
            _warn(digest, "message_not_delivered", error)

    async def _hand_over(self, app_session: AppSession, part: Any, seen: Any) -> None:
        with app_session.used():
            limit = self._settings.max_remembered_body
            reply = await ask_on(self._app, app_session, json.dumps(seen).encode(), limit=limit)
        if reply.status < HTTPStatus.BAD_REQUEST:
            app_session.requests.settle(part)


def _worker_named(part: dict[str, Any], method: Any) -> str | None:
    """Return the worker that gave the id of what is answered, or the token of what progresses."""
    if method is None and ("result" in part or "error" in part):
        given = part.get("id")
    elif method == PROGRESS and isinstance(params := part.get("params"), dict):
        given = params.get("progressToken")
    else:
        return None
    named = _GIVEN_ID.fullmatch(given) if isinstance(given, str) else None
    return None if named is None else named["worker"]


def _warn(digest: bytes, operation: str, error: Exception) -> None:
    message = "session %(session)s: a message from another worker was not handed to the app: %(error)s"
    log(logging.WARNING, operation, message, session=short_digest(digest), error=str(error) or type(error).__name__)
