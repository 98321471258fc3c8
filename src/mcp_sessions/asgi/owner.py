"""From the verified principal of a request to the owner of its session.

The specification forbids using a session as authentication, so the owner is taken anew from every request (MCP
Security Best Practices, Session Hijacking). The SDK and FastMCP leave a verified bearer token's client, subject and
claims in ``scope["user"]``; whoever authenticates in another way passes a function of their own. What cannot be told
for certain is an error, never the anonymous owner.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp_sessions.asgi.types import Scope
from mcp_sessions.errors import InvalidOwnerError
from mcp_sessions.records.sessions import Owner

OwnerOf = Callable[[Scope], Owner | Awaitable[Owner]]
"""Tells the owner from the ASGI scope of an authenticated request; may be a coroutine function."""

_ANONYMOUS = Owner()


class NoOwnerError(Exception):
    """An owner function answered something that is no owner; the message tells its author what to change."""


async def owner_of(scope: Scope, function: OwnerOf) -> Owner:
    """Return the owner that a function tells from a request's scope.

    Raises:
        InvalidOwnerError: the function cannot tell.
        NoOwnerError: it answers something else.

    """
    owner: object = function(scope)
    if inspect.isawaitable(owner):
        owner = await owner
    if not isinstance(owner, Owner):
        raise NoOwnerError(
            f"the owner function returned something of the type {type(owner).__name__}: it must return an Owner, "
            "Owner() for the anonymous one, or raise InvalidOwnerError where it cannot tell"
        )
    return owner


def bearer_owner(tenant_claim: str | None = None) -> OwnerOf:
    """Return the function that reads the owner from what the SDK's bearer authentication left in the scope.

    A request without an authenticated user belongs to the anonymous owner. The tenant is the claim of that name,
    where one is named; a token without it belongs to no tenant.
    """

    def owner(scope: Scope) -> Owner:
        user = scope.get("user")
        if user is None or not user.is_authenticated:
            return _ANONYMOUS
        token = getattr(user, "access_token", None)
        if token is None:
            raise InvalidOwnerError(
                f"scope['user'] is a {type(user).__name__} without an access token: "
                "pass DurableSessions an owner function that knows this kind of user"
            )
        claims: Mapping[str, Any] = token.claims or {}
        return Owner(
            tenant_id=_text(claims, tenant_claim) if tenant_claim else None,
            client_id=token.client_id,
            issuer=_text(claims, "iss"),
            subject=token.subject if token.subject is not None else _text(claims, "sub"),
        )

    return owner


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # numeric ids are common in tenant claims
    if value is None or isinstance(value, str):
        return value
    raise InvalidOwnerError(f"the claim {name} is a {type(value).__name__}, not text")
