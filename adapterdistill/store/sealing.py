"""Encryption of bundles at rest, with a key of the tenant's own.

The cipher is AES-256-GCM of `cryptography`. The nonce is a keyed digest of the content (as in
RFC 8452's aim, built from HMAC-SHA256), so the same content gives the same bytes: an update of a
bundle moves only the files that changed, and a nonce is never used for two contents. A reader of
the store learns sizes, and which files stayed the same; nothing of what is in them.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from adapterdistill.errors import ConfigError, ServingError
from adapterdistill.files import read_secret, write_secret

_KEY_BYTES = 32
_NONCE_BYTES = 12


def new_key(path: Path) -> bytes:
    """Write a new key: 64 hex digits in a file of mode 0600.

    Raises:
        ConfigError: there is a file already, which bundles may depend on, or none can be written.
    """
    if path.exists():
        raise ConfigError(f"{path}: there is a file already, and bundles may depend on it")
    key = secrets.token_bytes(_KEY_BYTES)
    write_secret(path, f"{key.hex()}\n".encode())
    return key


def read_key(path: Path) -> bytes:
    """Read a key of `new_key`.

    Raises:
        ConfigError: it cannot be read, others may read it, too, or it is not a key.
    """
    try:
        key = bytes.fromhex(read_secret(path).decode().strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"{path}: not a key: make one with `adapterdistill bundle key FILE`")
    return key


def key_id(key: bytes) -> str:
    """The name of a key, which reveals nothing of it."""
    return _keyed(key, b"id").hex()[:16]


def seal(key: bytes, content: bytes, *, about: str) -> bytes:
    """Encrypt content. `about`: what it is; opening it as anything else fails."""
    nonce = _keyed(key, b"nonce", about.encode(), content)[:_NONCE_BYTES]
    return nonce + AESGCM(_keyed(key, b"cipher")).encrypt(nonce, content, about.encode())


def open_sealed(key: bytes, sealed: bytes, *, about: str) -> bytes:
    """Decrypt what `seal` made. Raises ServingError: another key, or changed bytes."""
    nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        return AESGCM(_keyed(key, b"cipher")).decrypt(nonce, encrypted, about.encode())
    except (InvalidTag, ValueError):
        raise ServingError(f"{about} cannot be decrypted: its bytes were changed") from None


def _keyed(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 of the parts, each after its length: one key for each purpose."""
    mac = hmac.new(key, purpose, hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)
    return mac.digest()
