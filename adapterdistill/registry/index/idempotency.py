"""Calls that were answered already: the same request gets the same answer, and nothing happens
twice, however late it is repeated within a day.

An answer is written in the transaction that made the change, so that there is never one without
the other.
"""

import sqlite3
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from adapterdistill.errors import ConfigError, RequestIdReusedError
from adapterdistill.manifest import sha256_hex
from adapterdistill.registry.access import Caller
from adapterdistill.registry.index.schema import transaction

KEPT_S = 24 * 3600
MAX_KEPT = 1000
"""Answers kept for each caller, the latest."""
Answer = TypeVar("Answer", bound=Message)


def once(
    db: sqlite3.Connection,
    caller: Caller,
    request: Message,
    answer: type[Answer],
    change: Callable[[], Answer],
) -> Answer:
    """What `change` answers, or answered when the caller first made this request.

    Args:
        request: a message with a `request_id`; if that is empty, the change is simply made.

    Raises:
        ConfigError: the request id is no UUID.
        RequestIdReusedError: it came with another request before.
    """
    request_id: str = request.request_id
    if not request_id:
        return change()
    _check_id(request_id)
    said = f"{request.DESCRIPTOR.full_name} ".encode()
    digest = sha256_hex(said + request.SerializeToString(deterministic=True))
    with transaction(db):
        found = db.execute(
            "SELECT request_sha256, response FROM requests WHERE caller = ? AND request_id = ?"
            " AND time_ns > ?",
            (str(caller), request_id, _oldest_ns()),
        ).fetchone()
        if found is not None:
            if found[0] != digest:
                raise RequestIdReusedError(
                    f"request id {request_id} came with another request before",
                    field="request_id",
                )
            known: Answer = answer.FromString(found[1])
            return known
        made = change()
        _keep(db, str(caller), request_id, digest, made.SerializeToString())
    return made


def _check_id(request_id: str) -> None:
    try:
        if str(uuid.UUID(request_id)) == request_id.lower():
            return
    except ValueError:
        pass
    raise ConfigError("a request id must be a UUID, as 36 characters", field="request_id")


def _oldest_ns() -> int:
    return time.time_ns() - KEPT_S * 10**9


def _keep(
    db: sqlite3.Connection, caller: str, request_id: str, digest: str, response: bytes
) -> None:
    """Adds an answer and forgets what is too old, or too much of one caller."""
    db.execute("DELETE FROM requests WHERE time_ns <= ?", (_oldest_ns(),))
    db.execute(
        "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)",
        (caller, request_id, digest, response, time.time_ns()),
    )
    db.execute(
        "DELETE FROM requests WHERE rowid IN (SELECT rowid FROM requests WHERE caller = ?"
        " ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
        (caller, MAX_KEPT),
    )
