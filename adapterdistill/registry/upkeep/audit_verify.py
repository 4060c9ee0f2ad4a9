"""Verification that an audit log is unchanged, from the file alone, without a registry.

Each record holds the digest of the one before it, and checkpoints sign everything before them:
whoever changes a line must rewrite all later ones, and cannot sign them. Two checks need something
that was kept elsewhere: a copy of the public key shows that the registry itself signed, and an
earlier digest shows that the end was not cut off.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from adapterdistill.errors import AuditBrokenError, ConfigError
from adapterdistill.registry.upkeep.audit_line import (
    MAX_LINE_BYTES,
    MAX_RECORDS_UNSIGNED,
    Fault,
    Position,
    Why,
    is_signed,
    public_text,
    unseal,
)

LOG = "log.jsonl"
PUBLIC_KEY = "public.pem"
Record = dict[str, Any]


@dataclass(frozen=True)
class Examined:
    """The result of an examination, up to the first fault or to the end."""

    records: int
    revision: int
    """Revision of the newest event."""
    head: str
    """Digest of the last record. A copy elsewhere shows later that the log was not cut."""
    signed_records: int
    """Number of records that a checkpoint covers."""
    keys: tuple[str, ...]
    """Public keys (raw, base64) that signed checkpoints."""
    fault: Fault | None


class _FaultFoundError(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Examination:
    def __init__(self, trusted: Collection[str] | None) -> None:
        self.trusted = trusted
        self.announced: set[str] = set()
        self.signers: dict[str, None] = {}
        self.end = Position()
        self.revision = 0
        self.signed = 0

    def take(self, line: bytes, rest: Iterable[bytes]) -> Record:
        """Check the next line and return its record; `rest` are the lines after it."""
        number = self.end.number + 1
        if not line.endswith(b"\n"):
            self.refuse("torn", "it has no line end")
        record = unseal(line[:-1])
        if record is None:
            self.refuse("edited", "its digest does not match its content")
        found = record["number"]
        if found < number:
            self.refuse("reordered", f"record {found} stands here, but belongs earlier")
        if found > number:
            later = (unseal(one.rstrip(b"\n")) for one in rest)
            if any(one is not None and one["number"] == number for one in later):
                self.refuse("reordered", f"record {found} stands here, and record {number} later")
            self.refuse("removed", f"record {found} stands here; record {number} is gone")
        if record.get("previous") != self.end.sha256:
            self.refuse(
                "edited", "it does not continue the line before it: one of them was rewritten"
            )
        if type(record.get("revision")) is not int or record["revision"] < self.revision:
            self.refuse("edited", "its revision is before that of an earlier line")
        if record["kind"] == "key":
            self.announced.add(str(record.get("key")))
        elif record["kind"] == "checkpoint":
            self._check_signature(record)
        elif number - self.signed > MAX_RECORDS_UNSIGNED:
            self.refuse("unsigned", f"no checkpoint among the {MAX_RECORDS_UNSIGNED} before it")
        self.end = Position(number, record["sha256"])
        self.revision = record["revision"]
        return record

    def _check_signature(self, record: Record) -> None:
        key = str(record.get("key"))
        if not is_signed(record):
            self.refuse("signature", "the checkpoint is not signed by the key that it names")
        if key not in (self.announced if self.trusted is None else self.trusted):
            self.refuse("signature", "the checkpoint is signed by another key than the registry's")
        self.signers[key] = None
        self.signed = self.end.number + 1

    def refuse(self, why: Why, detail: str) -> NoReturn:
        raise _FaultFoundError(Fault(self.end.number + 1, why, detail))


def examine(
    path: Path,
    *,
    trusted: Collection[str] | None = None,
    head: str | None = None,
    visit: Callable[[Record], None] | None = None,
) -> Examined:
    """Read the log up to its first fault.

    Args:
        trusted: keys that may sign, as `read_public_key` returns them. None accepts the keys that
            the log itself names: this finds faults, but not a log that somebody else signed.
        head: digest of a record that the log had earlier and must still have.
        visit: called with each sound record, in order.

    Raises:
        ConfigError: the file cannot be read.
    """
    examination = _Examination(trusted)
    fault: Fault | None = None
    head_seen = head is None
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                record = examination.take(line, _lines(file))
                head_seen = head_seen or record["sha256"] == head
                if visit is not None:
                    visit(record)
        if not head_seen:
            examination.refuse("truncated", "the log ends without the record of the given head")
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {path}: {error.strerror}") from None
    except _FaultFoundError as found:
        fault = found.fault
    return Examined(
        records=examination.end.number,
        revision=examination.revision,
        head=examination.end.sha256,
        signed_records=examination.signed,
        keys=tuple(examination.signers),
        fault=fault,
    )


def verify(
    path: Path,
    *,
    trusted: Collection[str] | None = None,
    head: str | None = None,
    visit: Callable[[Record], None] | None = None,
) -> Examined:
    """Examine the log; raises AuditBrokenError, which names the line, if there is a fault."""
    found = examine(path, trusted=trusted, head=head, visit=visit)
    if found.fault is not None:
        raise AuditBrokenError(f"{path.name} {found.fault}")
    return found


def _lines(file: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: file.readline(MAX_LINE_BYTES), b"")


def read_public_key(path: Path) -> str:
    """Read the ed25519 key of a PEM file; raises ConfigError if it holds none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{path}: expected a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: expected an ed25519 key")
    return public_text(key)
