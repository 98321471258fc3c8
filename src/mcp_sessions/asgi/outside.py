"""The watch over what does not pass the layer: a session id that an app gives away there is of no durable session.

Where an app has another MCP endpoint, or one behind something that shows no routes, construction cannot know. Then the
first such response is an error in the log, with what to write instead; clients would notice only at the next restart.
"""

import logging

from mcp_sessions.asgi.headers import SESSION_ID, first_value
from mcp_sessions.asgi.types import App, Message, Receive, Scope, Send
from mcp_sessions.logs import log

VISIT = "mcp_sessions.visit"
_SHOWN = 200  # characters of a path, which a client chooses


class Visit:
    """One request, from the moment it comes in: whether it has passed a layer."""

    governed = False


def visit_of(scope: Scope) -> Visit:
    """Return the visit that a request is, kept in its scope however often that is copied from now on."""
    visit: Visit = scope.setdefault(VISIT, Visit())
    return visit


class Outside:
    """An app with a layer somewhere inside, under watch."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope = dict(scope)
        visit = visit_of(scope)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and not (visit.governed or self._has_warned):
                self._look(message, scope)
            await send(message)

        await self._app(scope, receive, watched)

    def _look(self, start: Message, scope: Scope) -> None:
        if first_value(start.get("headers", ()), SESSION_ID) is None:
            return
        self._has_warned = True
        log(
            logging.ERROR,
            "not_durable",
            "a session opened at %(path)s is not durable: another MCP endpoint than that of DurableSessions answers "
            "there; wrap what is mounted there in DurableSessions, or name that path, as in "
            "DurableSessions(app, path=…)",
            path=repr(scope["path"])[:_SHOWN],
        )
