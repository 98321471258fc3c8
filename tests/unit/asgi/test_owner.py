"""The owner that the SDK's bearer authentication leaves in the scope of a request."""

from collections.abc import Mapping
from typing import Any

import pytest
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.authentication import SimpleUser, UnauthenticatedUser

from mcp_sessions.asgi import bearer_owner
from mcp_sessions.errors import InvalidOwnerError
from mcp_sessions.records.sessions import Owner


def owner(claims: Mapping[str, Any] | None = None, *, subject: str | None = None, tenant: str | None = None) -> object:
    """The owner that the bearer of a token is."""
    token = AccessToken(
        token="", client_id="client", scopes=[], subject=subject, claims=None if claims is None else dict(claims)
    )
    return bearer_owner(tenant)({"user": AuthenticatedUser(token)})


def test_token_tells_client_issuer_and_subject() -> None:
    """Client, issuer and subject are the token's; a tenant is only taken where its claim is named."""
    claims = {"iss": "issuer", "sub": "subject", "tenant": "acme"}
    assert owner(claims) == Owner(None, "client", "issuer", "subject")
    assert owner(claims, tenant="tenant") == Owner("acme", "client", "issuer", "subject")


@pytest.mark.parametrize("claims", [None, {}, {"iss": None}])
def test_what_a_token_does_not_say_is_absent(claims: Mapping[str, Any] | None) -> None:
    """A token without claims belongs to its client alone."""
    assert owner(claims, tenant="tenant") == Owner(client_id="client")


def test_verified_subject_comes_before_the_claim() -> None:
    """The subject that the verifier set wins over the claim of that name."""
    assert owner({"sub": "claimed"}, subject="verified") == Owner(client_id="client", subject="verified")


def test_numeric_claims_are_text() -> None:
    """A number in a claim is an id like any other."""
    assert owner({"org": 42}, tenant="org") == Owner("42", "client")


@pytest.mark.parametrize("value", [True, 1.5, ["acme"], {"id": "acme"}, ""])
def test_claim_that_is_no_id_is_an_error(value: object) -> None:
    """What cannot be told for certain is an error, never the absent tenant."""
    with pytest.raises(InvalidOwnerError):
        owner({"org": value}, tenant="org")


@pytest.mark.parametrize("scope", [{}, {"user": None}, {"user": UnauthenticatedUser()}])
def test_nobody_is_the_anonymous_owner(scope: dict[str, Any]) -> None:
    """Without an authenticated user, the owner is the anonymous one."""
    assert bearer_owner()(scope) == Owner()


def test_user_of_another_kind_is_an_error() -> None:
    """A user without an access token is never taken for nobody; the message says what to do."""
    with pytest.raises(InvalidOwnerError, match=r"SimpleUser.*owner function"):
        bearer_owner()({"user": SimpleUser("alice")})
