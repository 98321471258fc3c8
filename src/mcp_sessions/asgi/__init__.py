"""Durable sessions for any streamable HTTP MCP app, as plain ASGI.

``DurableSessions`` wraps an app. It gives each client a session id of its own, keeps the app's to itself, checks every
request against the database, and restores on this worker what another one opened, so that any worker serves any
session and no restart loses one. See ``docs/how-to/serve.md``.

Read the modules in the order in which a request passes them:

1. ``middleware`` is the front door; ``placement`` puts the layer around the app's MCP endpoint, ``lifespan`` starts and
   stops it. ``settings`` and ``serving_context`` are what it works with.
2. ``layer`` decides what a request is: by its ``headers``, its ``owner``, and its ``body`` where it names no session.
3. ``initialize`` opens a session; ``requests`` serves or ends one that the request names.
4. ``app_sessions`` has the app's own session for it on this worker, or lets ``restore`` replay the handshake, in the
   order of ``restore_queue``. ``in_flight`` counts what runs, and ``session_checks`` looks which sessions are live.
5. ``client_messages`` is what goes to the app, and ``app_messages`` what comes back; ``server_requests`` gives the
   server's requests ids of their own, and ``peer_messages`` passes on what another worker waits for.
6. ``app_responses`` shows the client the app's responses under its own id; ``responses`` are the layer's own, and
   ``client_send`` is the way out for both.

``jsonrpc``, ``member_names``, ``event_streams``, ``app_requests`` and ``types`` are tools of these; ``outside``,
``echoes``, ``stop_signals``, ``sdk_servers`` and ``health`` know the surroundings: other endpoints, others' logs,
signals, the SDKs, and who asks whether the worker lives.
"""

from mcp_sessions.asgi.middleware import DurableSessions
from mcp_sessions.asgi.owner import OwnerOf, bearer_owner
from mcp_sessions.asgi.requests import SCOPE_KEY
from mcp_sessions.asgi.settings import HttpSettings

__all__ = ["SCOPE_KEY", "DurableSessions", "HttpSettings", "OwnerOf", "bearer_owner"]
