"""The sessions that everybody's database is filled with: the same ones, known by their number."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from mcp_sessions import Owner

MOST_IN_USE = 200_000
"""How many of the stored sessions the callers of one store call for at most."""

TENANTS, CLIENTS, ISSUER = 100, 10, "https://login.example.com/"


@dataclass(frozen=True, slots=True)
class Client:
    """A client with its session: the id that it sends, its digest, and who it is."""

    session_id: str
    digest: bytes
    owner: Owner

    @property
    def parts(self) -> tuple[str | None, ...]:
        """The parts of the owner, in the order of the columns."""
        return self.owner.tenant_id, self.owner.client_id, self.owner.issuer, self.owner.subject


def session_id(number: int) -> str:
    """Return the session id of this number, as long as a minted one."""
    return f"session-{number:035d}"


def client(number: int) -> Client:
    """Return the client of this number."""
    name = session_id(number)
    owner = Owner(f"tenant-{number % TENANTS}", f"client-{number % CLIENTS}", ISSUER, f"user-{number}")
    return Client(name, hashlib.sha256(name.encode()).digest(), owner)


@lru_cache(maxsize=300_000)
def known_client(number: int) -> Client:
    """Return the client of this number; only the first time costs anything."""
    return client(number)
