"""Owners that are almost the same: every way in which two of them can differ."""

from dataclasses import replace

from mcp_sessions import Owner

ACME = Owner(tenant_id="acme", client_id="cli-1", issuer="https://idp.example", subject="ann")

_PARTS = ("tenant_id", "client_id", "issuer", "subject")

MISMATCHES: dict[str, tuple[Owner, Owner]] = {
    **{f"another {name}": (ACME, replace(ACME, **{name: "other"})) for name in _PARTS},
    **{f"no {name}": (ACME, replace(ACME, **{name: None})) for name in _PARTS},
    **{f"an unasked {name}": (replace(ACME, **{name: None}), ACME) for name in _PARTS},
    "anonymous use": (ACME, Owner()),
    "use of an anonymous session": (Owner(), ACME),
    "parts swapped": (Owner(tenant_id="a", client_id="b"), Owner(tenant_id="b", client_id="a")),
    "a part in another place": (Owner(tenant_id="a"), Owner(client_id="a")),
    "parts run together": (Owner(tenant_id="ab", client_id="c"), Owner(tenant_id="a", client_id="bc")),
    "letter case": (Owner(tenant_id="acme"), Owner(tenant_id="ACME")),
    "trailing space": (Owner(tenant_id="acme"), Owner(tenant_id="acme ")),
    "composed letters": (Owner(tenant_id="caf\u00e9"), Owner(tenant_id="cafe\u0301")),
    "a pattern": (Owner(tenant_id="acme"), Owner(tenant_id="%")),
    "the text null": (Owner(), Owner(tenant_id="null", client_id="NULL", issuer="None", subject="null")),
    "digits": (Owner(tenant_id="1"), Owner(tenant_id="1.0")),
}
"""Owner of a session, and another one: by what they differ."""
