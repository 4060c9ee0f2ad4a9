"""Idempotency keys: a request that is repeated within a day gets the first answer again.

The change is not made twice. Its answer is stored in the transaction that makes the change, so
neither exists without the other. The protocol calls the key `request_id`.
"""

import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from adapterdistill.errors import ConfigError, RequestIdReusedError
from adapterdistill.manifest import sha256_hex
from adapterdistill.registry.access import Caller
from adapterdistill.registry.index.database import Database, transaction

KEPT_S = 24 * 3600
MAX_KEPT = 1000
"""Number of answers kept for each caller, the newest ones."""
Answer = TypeVar("Answer", bound=Message)


def once(
    db: Database,
    caller: Caller,
    request: Message,
    answer: type[Answer],
    change: Callable[[], Answer],
) -> Answer:
    """Make the change and return its answer; for a repeated request, return the first answer.

    Args:
        request: a message with an idempotency key, `request_id`; without a key the change is made.

    Raises:
        ConfigError: the key is not a UUID.
        RequestIdReusedError: the caller used the key for another request before.
    """
    key: str = request.request_id
    if not key:
        return change()
    _check(key)
    kind = f"{request.DESCRIPTOR.full_name} ".encode()
    digest = sha256_hex(kind + request.SerializeToString(deterministic=True))
    with transaction(db):
        found = db.execute(
            "SELECT request_sha256, response FROM requests WHERE caller = ? AND request_id = ?"
            " AND time_ns > ?",
            (str(caller), key, _oldest_ns()),
        ).fetchone()
        if found is not None:
            if found[0] != digest:
                raise RequestIdReusedError(
                    f"request id {key} was used for another request before",
                    field="request_id",
                )
            known: Answer = answer.FromString(found[1])
            return known
        made = change()
        _keep(db, str(caller), key, digest, made.SerializeToString())
    return made


def _check(key: str) -> None:
    try:
        if str(uuid.UUID(key)) == key.lower():
            return
    except ValueError:
        pass
    raise ConfigError("a request id must be a UUID, as 36 characters", field="request_id")


def _oldest_ns() -> int:
    return time.time_ns() - KEPT_S * 10**9


def _keep(db: Database, caller: str, key: str, digest: str, response: bytes) -> None:
    """Store an answer; delete those that are too old and those over the caller's limit."""
    db.execute("DELETE FROM requests WHERE time_ns <= ?", (_oldest_ns(),))
    db.execute(
        "INSERT INTO requests (caller, request_id, request_sha256, response, time_ns)"
        " VALUES (?, ?, ?, ?, ?)",
        (caller, key, digest, response, time.time_ns()),
    )
    db.execute(
        "DELETE FROM requests WHERE caller = ? AND time_ns < (SELECT min(time_ns) FROM"
        " (SELECT time_ns FROM requests WHERE caller = ? ORDER BY time_ns DESC LIMIT ?) AS kept)",
        (caller, caller, MAX_KEPT),
    )
