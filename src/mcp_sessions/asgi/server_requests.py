"""The server's own requests to its client (elicitation, sampling, roots), under ids that are given once.

SDKs count the ids of their requests from 1 in every worker and after every restore. Passed on as they are, a user's
"yes" to a question of one worker answers another question of another. So the client sees an id, and a progress token,
that no other worker, restore or session ever gives: the worker's own id, which tells who asked, and a random part. What
the client answers is mapped back, and an answer that fits none of them belongs to nobody (MCP specification
2025-11-25, Base Protocol, Requests: an id is unique within its session).
"""

import json
import secrets
from typing import Any

_CANCELLED = "notifications/cancelled"
PROGRESS = "notifications/progress"
_MOST_WAITING = 256  # a client answers a few at a time; of those that never are, an app may not tell


class UnknownAnswerError(Exception):
    """An answer to no request that waits for one here."""

    def __init__(self) -> None:
        super().__init__("an answer was refused that fits no request of this worker's that waits for one")


class ServerRequests:
    """The server requests of one app session that wait for their client's answers.

    Args:
        worker_id: what the ids begin with, before a dot: the worker that asked.
        most: how many may wait; beyond it the oldest is forgotten, and its answer refused.

    """

    def __init__(self, worker_id: str, *, most: int = _MOST_WAITING) -> None:
        self._worker_id = worker_id
        self._most = most
        self._waiting: dict[str, tuple[Any, Any]] = {}  # by the client's id, oldest first: the app's id and token
        self._given: dict[str, str] = {}  # the client's id, by the app's as JSON

    def __len__(self) -> int:
        return len(self._waiting)

    def to_client(self, message: Any) -> Any:
        """Return a message or a batch of the app's as the client may see it: the same object where nothing changes."""
        if isinstance(message, list):
            return _unless_same(message, [self._part_to_client(part) for part in message])
        return self._part_to_client(message)

    def _part_to_client(self, message: Any) -> Any:
        if not isinstance(message, dict) or "method" not in message:
            return message
        if message.get("id") is not None:
            return self._asked(message)
        return self._cancelled(message) if message["method"] == _CANCELLED else message

    def to_app(self, message: Any) -> Any:
        """Return a message or a batch of the client's as the app may see it; None where nothing is left to be seen.

        Progress of what nobody waits for any more is left out. What a client cancels are requests of its own, whose
        ids stay as they are.

        Raises:
            UnknownAnswerError: there is an answer to no request that waits here.

        """
        if isinstance(message, list):  # what is no message in it, a list perhaps, is the app's to refuse
            seen = [kept for part in message if (kept := self._part_to_app(part)) is not None]
            return _unless_same(message, seen) if seen or not message else None
        return self._part_to_app(message)

    def _part_to_app(self, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        if "result" in message or "error" in message:
            app_id, _ = self._waiting_under(message.get("id"))
            return {**message, "id": app_id}
        return self._progress(message) if message.get("method") == PROGRESS else message

    def settle(self, message: Any) -> None:
        """Take note that the app has accepted the answers in a client's message: what they answer waits no more."""
        for part in message if isinstance(message, list) else [message]:
            if isinstance(part, dict) and "method" not in part:
                self._forget(part.get("id"))

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        key = json.dumps(request["id"])
        given = self._given.get(key)  # a stream that is replayed repeats its requests
        if given is None:
            given = self._given[key] = f"{self._worker_id}.{secrets.token_urlsafe(16)}"
        params, token = request.get("params"), None
        if isinstance(params, dict) and isinstance(meta := params.get("_meta"), dict):
            token = meta.get("progressToken")
        self._waiting[given] = (request["id"], token)
        if len(self._waiting) > self._most:
            self._forget(next(iter(self._waiting)))
        named = {**request, "id": given}
        if isinstance(params, dict) and token is not None:
            named["params"] = {**params, "_meta": {**params["_meta"], "progressToken": given}}
        return named

    def _cancelled(self, notification: dict[str, Any]) -> dict[str, Any]:
        params = notification.get("params")
        if not isinstance(params, dict):
            return notification
        given = self._given.get(json.dumps(params.get("requestId")))
        if given is None:
            return notification  # the client knows no request by such an id
        self._forget(given)
        return {**notification, "params": {**params, "requestId": given}}

    def _progress(self, notification: dict[str, Any]) -> dict[str, Any] | None:
        params = notification.get("params")
        if not isinstance(params, dict):
            return notification
        try:
            _, token = self._waiting_under(params.get("progressToken"))
        except UnknownAnswerError:
            return None
        return None if token is None else {**notification, "params": {**params, "progressToken": token}}

    def _waiting_under(self, given: Any) -> tuple[Any, Any]:
        if not isinstance(given, str) or given not in self._waiting:
            raise UnknownAnswerError
        return self._waiting[given]

    def _forget(self, given: Any) -> None:
        if isinstance(given, str) and (waiting := self._waiting.pop(given, None)):
            del self._given[json.dumps(waiting[0])]


def _unless_same(before: list[Any], after: list[Any]) -> list[Any]:
    is_same = len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True))
    return before if is_same else after
