"""Sealing: what is stored can be encrypted, so that whoever reads the database reads nothing of it.

The keys are a ring: the first one seals, all of them open, so that keys can be changed while workers run. What was
sealed names its key by an identifier that is computed from the key, and cannot be confused. Each text is bound to its
place, which is table, session and name: moved to another place, it does not open. What was stored before there were
keys is read as it is, until ``mcp-sessions db reencrypt`` has gone through.

Source: AES-256-GCM as in NIST SP 800-38D, with random nonces of 96 bits, so at most 2^32 texts a key (section 8.3).
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from mcp_sessions.errors import ConfigurationError, EncryptionError
from mcp_sessions.settings import ENV_PREFIX, Settings

_KEY_BYTES = 32
_NONCE_BYTES = 12
_KEYS, _FILE = (f"{name} ({ENV_PREFIX}{name.upper()})" for name in ("encryption_keys", "encryption_keys_file"))


class Sealer:
    """Seals and opens texts with a ring of keys; without keys, it stores texts as they are."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        ring = list(keys)
        self._ciphers = {key_id_of(key): _cipher(key) for key in ring}
        self.key_id = key_id_of(ring[0]) if ring else None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the sealer that these settings ask for.

        Raises:
            ConfigurationError: the keys cannot be read, are none, or need a library that is not installed.
        """
        return cls(keys_in(settings))

    def seal(self, text: str, *place: str | bytes) -> tuple[str, str | None]:
        """Return a text as it is stored at this place, and the identifier of the key; None where there are no keys."""
        if self.key_id is None:
            return text, None
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self.key_id].encrypt(nonce, text.encode(), _bound_to(place))
        return base64.b64encode(nonce + sealed).decode(), self.key_id

    def open(self, stored: str, key_id: str | None, *place: str | bytes) -> str:
        """Return a text that was stored at this place.

        Raises:
            EncryptionError: the key is missing, or what is stored was changed, or moved here from another place.
        """
        if key_id is None:
            return stored
        if (cipher := self._ciphers.get(key_id)) is None:
            raise EncryptionError(
                f"what is stored was sealed with the key {key_id}, which is not among {_KEYS}: add that key, at any "
                "place but the first, and try again"
            )
        try:
            sealed = base64.b64decode(stored, validate=True)
            return str(cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound_to(place)).decode())
        except (ValueError, _invalid_tag()) as error:
            raise EncryptionError(
                f"what is stored does not open with its key {key_id}: it was changed, or moved from another place"
            ) from error


def key_id_of(key: bytes) -> str:
    """Return the identifier of a key: 12 hex digits that tell keys apart, and nothing of the key."""
    return hashlib.sha256(b"mcp-sessions key\0" + key).hexdigest()[:12]


def _bound_to(place: tuple[str | bytes, ...]) -> bytes:
    return json.dumps([part.hex() if isinstance(part, bytes) else part for part in place]).encode()


def keys_in(settings: Settings) -> list[bytes]:
    """Return the ring of keys that these settings name; an empty one where they name none.

    Raises:
        ConfigurationError: the keys cannot be read, or are none.
    """
    if settings.encryption_keys is not None and settings.encryption_keys_file is not None:
        raise ConfigurationError(f"set {_KEYS} or {_FILE}, not both: the order of the keys matters")
    if settings.encryption_keys is not None:
        return _parsed(settings.encryption_keys.replace(",", " ").split(), _KEYS)
    if settings.encryption_keys_file is None:
        return []
    try:
        lines = Path(settings.encryption_keys_file).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{_FILE} cannot be read: {reason}") from None
    return _parsed([line.strip() for line in lines if line.strip() and not line.startswith("#")], _FILE)


def _parsed(texts: list[str], setting: str) -> list[bytes]:
    keys = []
    for number, text in enumerate(texts, start=1):
        try:
            key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise ConfigurationError(
                f"{setting}: key number {number} must be {_KEY_BYTES} bytes in base64, as of 'openssl rand -base64 32'"
            )
        keys.append(key)
    if not keys or len(set(keys)) < len(keys):
        raise ConfigurationError(f"{setting} must hold at least one key, and none of them twice")
    return keys


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(f"{_KEYS} needs a library: pip install 'mcp-sessions[encryption]'") from None
    return AESGCM(key)


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra

    return InvalidTag
