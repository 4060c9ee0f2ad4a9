"""A line of the audit log: a record in canonical JSON.

Each record holds its number, its own digest and the digest of the line before it. Its kind is the
kind of an event (`registry.index.events`) or one of these: `refused` (a refused write), `renewed`
(certificates that were renewed), `key` (the public key that signs from here on), `checkpoint` (a
signature over all lines before it), `repaired` (a line that a crash had cut short was removed),
`void` (the event of the line before it was not made: the index could not commit it). The
authority's own log has `enrolled` and `revoked`.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from adapterdistill.manifest import canonical_json, sha256_hex

Body = dict[str, str | int]
Why = Literal["edited", "removed", "reordered", "torn", "signature", "unsigned", "truncated"]

BEGINNING = "0" * 64
"""The digest that the first record holds for the line before it."""
MAX_RECORDS_UNSIGNED = 100
"""Greatest number of records between two checkpoints."""
MAX_LINE_BYTES = 1 << 20
_SIGNED = b"adapterdistill audit checkpoint v1\n"


@dataclass(frozen=True)
class Fault:
    """The first line that was changed, and how."""

    line: int
    why: Why
    detail: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.why}: {self.detail}"


@dataclass(frozen=True)
class Position:
    """The end of a log: the number and the digest of its last record."""

    number: int = 0
    sha256: str = BEGINNING


def seal(body: Body, after: Position) -> tuple[bytes, Position]:
    """Make the line for `body` after the record at `after`, and its position."""
    record = body | {"number": after.number + 1, "previous": after.sha256}
    sha256 = sha256_hex(canonical_json(record))
    line = canonical_json(record | {"sha256": sha256}) + b"\n"
    return line, Position(after.number + 1, sha256)


def unseal(line: bytes) -> dict[str, Any] | None:
    """Read the record of a line without its line end; None if its digest is wrong."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or canonical_json(record) != line:
            return None
        content = {name: value for name, value in record.items() if name != "sha256"}
        sound = record.get("sha256") == sha256_hex(canonical_json(content))
    except (ValueError, RecursionError):
        return None
    if not sound or type(record.get("number")) is not int or type(record.get("kind")) is not str:
        return None
    return record


def sign(body: Body, after: Position, key: Ed25519PrivateKey) -> Body:
    """Make `body` a checkpoint of the log that ends at `after`."""
    body = body | {"kind": "checkpoint", "key": public_text(key.public_key())}
    signature = key.sign(_SIGNED + canonical_json(_signed_part(body, after)))
    return body | {"signature": base64.b64encode(signature).decode()}


def is_signed(checkpoint: dict[str, Any]) -> bool:
    """Return whether the key that the checkpoint names signed it."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(checkpoint["key"]))
        signature = base64.b64decode(checkpoint["signature"])
        after = Position(checkpoint["number"] - 1, checkpoint["previous"])
        body = {k: v for k, v in checkpoint.items() if k not in ("signature", "sha256")}
        key.verify(signature, _SIGNED + canonical_json(_signed_part(body, after)))
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def public_text(key: Ed25519PublicKey) -> str:
    """Encode the raw key in base64, as in records."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def _signed_part(body: Body, after: Position) -> Body:
    return body | {"number": after.number + 1, "previous": after.sha256}
