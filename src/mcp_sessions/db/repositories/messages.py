"""The messages repository: what workers leave for one another, and the leases by which they are known to live."""

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from mcp_sessions.db.expressions import GIVEN_MESSAGES, GIVEN_PUBLICATIONS
from mcp_sessions.db.statements import messages as statements
from mcp_sessions.db.statements import workers


class Outgoing(NamedTuple):
    """A message to be stored: to which worker (``None``: to all), about which session (``None``: about none)."""

    kind: str
    body: str
    session_digest: bytes | None
    worker_id: str | None


class Message(NamedTuple):
    """A message as a worker reads it."""

    message_id: int
    session_digest: bytes | None
    kind: str
    body: str


class Look(NamedTuple):
    """What a look found: messages to all workers, and whether there are some to this one alone, or still more."""

    to_all: list[Message]
    has_own: bool
    is_full: bool


class MessageRepository:
    """Rows of ``messages``."""

    def send(self, connection: Connection, outgoing: Sequence[Outgoing], *, sender: str) -> tuple[list[bool], set[int]]:
        """Store messages; tell of each whether there is somebody to read it, and the numbers of those to all."""
        about_sessions = [(place, each) for place, each in enumerate(outgoing) if each.session_digest is not None]
        published = [(place, each) for place, each in enumerate(outgoing) if each.session_digest is None]
        dialect = connection.dialect.name
        by_whom = {"this_worker_id": sender}
        stored: set[tuple[str | None, bytes | None]] = set()
        to_all: set[int] = set()
        if about_sessions:
            given = GIVEN_MESSAGES.parameters(
                dialect,
                [(each.session_digest, each.worker_id, each.kind, each.body, place) for place, each in about_sessions],
            )
            for message_id, worker_id, digest in connection.execute(statements.send_messages(dialect), given | by_whom):
                stored.add((worker_id, bytes(digest)))
                if worker_id is None:
                    to_all.add(message_id)
        if published:
            given = GIVEN_PUBLICATIONS.parameters(dialect, [(each.kind, each.body, place) for place, each in published])
            numbers = connection.execute(statements.publish_messages(dialect), given | by_whom).scalars().all()
            to_all.update(numbers)
            stored.update([(None, None)] if numbers else [])
        return [(each.worker_id, each.session_digest) in stored for each in outgoing], to_all

    def take(self, connection: Connection, worker_id: str, *, limit: int) -> list[Message]:
        """Remove and return at most ``limit`` messages to a worker, the oldest ones, in the order of their numbers."""
        parameters = {"this_worker_id": worker_id, "limit": limit}
        return sorted(map(_message_of, connection.execute(statements.take_messages(), parameters)))

    def look(self, connection: Connection, worker_id: str, *, behind: int, limit: int) -> Look:
        """Return at most ``limit`` messages to all workers behind a number, and whether this worker has any."""
        parameters = {"this_worker_id": worker_id, "message_id": behind, "limit": limit}
        rows = connection.execute(statements.look_for_messages(), parameters).all()
        to_all = [_message_of(row) for row in rows if row.to_all]
        return Look(to_all, has_own=len(to_all) < len(rows), is_full=len(rows) == limit)

    def newest(self, connection: Connection) -> int:
        """Return the number of the newest message to all workers; 0 where there is none."""
        return connection.execute(statements.newest_message()).scalar_one()

    def remove(self, connection: Connection, *, older_than: timedelta, limit: int) -> int:
        """Remove at most ``limit`` messages that are older than this, the oldest first, and return how many."""
        parameters = {"retention": older_than, "limit": limit}
        return connection.execute(statements.remove_messages(), parameters).rowcount


class WorkerRepository:
    """Rows of ``workers``, under one length of lease."""

    def __init__(self, lease: timedelta) -> None:
        self._lease = {"lease": lease}

    def insert(self, connection: Connection, worker_id: str) -> None:
        """Begin the lease of this process as a worker of that id."""
        row = {"worker_id": worker_id, "host": socket.gethostname(), "process_id": os.getpid()}
        connection.execute(workers.insert_worker(), row | self._lease)

    def extend_lease(self, connection: Connection, worker_id: str) -> bool:
        """Move a lease on; False where it ran out before, so that others have taken the worker to be dead."""
        parameters = {"this_worker_id": worker_id} | self._lease
        return connection.execute(workers.extend_lease(), parameters).first() is not None

    def is_alive(self, connection: Connection, worker_id: str) -> bool:
        """Tell whether a worker's lease runs."""
        return connection.execute(workers.find_alive(), {"this_worker_id": worker_id}).scalar_one()

    def remove(self, connection: Connection, worker_id: str) -> None:
        """Remove a worker that stops, with the messages to it."""
        connection.execute(workers.remove_worker(), {"this_worker_id": worker_id})

    def remove_dead(self, connection: Connection, *, grace: timedelta) -> int:
        """Remove the workers whose lease ran out longer ago than this, with their messages; return how many."""
        return connection.execute(workers.remove_dead_workers(), {"grace": grace}).rowcount


def _message_of(row: Sequence[Any]) -> Message:
    message_id, digest, kind, body = row[:4]
    return Message(message_id, None if digest is None else bytes(digest), kind, body)
