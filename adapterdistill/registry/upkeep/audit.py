"""The registry's audit log: one line for each event and for each refused write.

    ROOT/audit/log.jsonl     the lines, which `audit_verify` checks
    ROOT/audit/public.pem    the public key of its checkpoints; auditors keep a copy
    ROOT/audit.key           the private key

The line of an event is on disk before the index commits the change, in the order of revisions: no
change takes effect without its line. A line whose change was not committed, because of a crash or a
full disk between the two, can only be the last one; a line `void` then follows it.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from adapterdistill.errors import AuditBrokenError, IntegrityError
from adapterdistill.files import read_secret, sync, write_secret
from adapterdistill.registry.index.schema import EventKind
from adapterdistill.registry.upkeep.audit_line import (
    MAX_RECORDS_UNSIGNED,
    Body,
    Position,
    public_text,
    seal,
    sign,
    unseal,
)
from adapterdistill.registry.upkeep.audit_verify import LOG, PUBLIC_KEY, Record

PRIVATE_KEY = "audit.key"
EVENTS_AT_ONCE = 200
EVENT_KINDS = frozenset(get_args(EventKind))
_OTHER_KINDS = (
    *("refused", "renewed", "key", "checkpoint", "repaired", "void"),
    *("enrolled", "revoked"),
)
_WINDOW_BYTES = 1 << 16
# The beginning of a line, cut anywhere.
_TEXT = rb'"(?:[^"\\\x00-\x1f]|\\[\x20-\x7e])*'
_BEGINNING = re.compile(
    rb'\{(?:"[a-z0-9_]+":(?:' + _TEXT + rb'"|\d+),)*'
    rb'(?:"[a-z0-9_]*(?:"(?::(?:' + _TEXT + rb'["\\]?|\d*)?)?)?\}?)?'
)
_PAIR = re.compile(rb'"(number|previous|kind)":("[^"]*"|\d+),')


class AuditLog:
    """The log of one registry folder. Not thread-safe: one thread at a time.

    Raises:
        AuditBrokenError: its end is not one that this class leaves, even in a crash.
        ConfigError: its private key is open to others.
    """

    def __init__(
        self,
        root: Path,
        events_after: Callable[[int], Sequence[Body]],
        unmade: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """Open the log, and add the events that an earlier release left out of it.

        Args:
            events_after: returns the index's events after a revision, at most EVENTS_AT_ONCE.
            unmade: says whether the index never committed the event of the last line; the index
                skips that revision from then on.
        """
        folder = root / "audit"
        if not folder.exists():
            folder.mkdir()
            sync(root)
        self._events_after = events_after
        self._unmade = unmade
        self._key = _private_key(root / PRIVATE_KEY)
        pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        if not (folder / PUBLIC_KEY).exists() or (folder / PUBLIC_KEY).read_bytes() != pem:
            (folder / PUBLIC_KEY).write_bytes(pem)
        self._file = os.open(folder / LOG, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._open()
        except BaseException:
            os.close(self._file)
            raise
        sync(folder)

    def _open(self) -> None:
        records = self._read_end()
        self.void(self._unmade)
        key = public_text(self._key.public_key())
        if not records or key not in (one.get("key") for one in records):
            self.write([{"kind": "key", "key": key}])
        else:
            self.write()
        if self._unsigned:
            self.append([])

    def catch_up(self) -> None:
        """Read the lines that another process added since, which must not add any meanwhile."""
        if os.fstat(self._file).st_size != self.size:
            self._read_end()

    def _read_end(self) -> list[Record]:
        """Find the end of the log, and remove the fragment of a line there; return its records."""
        records, fragment = _end_of(self._file)
        last: Record = records[-1] if records else {"revision": 0}
        self.end = Position(last["number"], last["sha256"]) if records else Position()
        self.revision: int = last["revision"]
        self.size = os.fstat(self._file).st_size - len(fragment)
        self._unsigned = sum(record["kind"] != "checkpoint" for record in records)
        self.ends_with_event = bool(records) and records[-1]["kind"] in EVENT_KINDS
        if fragment:
            self._cut(fragment)
        return records

    def _cut(self, fragment: bytes) -> None:
        """Remove the fragment of a line that a crash left, and record the repair."""
        if not _is_begun(fragment, self.end):
            raise AuditBrokenError(
                f"{LOG} line {self.end.number + 1}: torn: its {len(fragment)} bytes are not the"
                " beginning of a line that this registry was writing"
            )
        os.ftruncate(self._file, self.size)
        self.append([{"kind": "repaired", "cut_bytes": len(fragment)}])

    def void(self, unmade: Callable[[int], bool]) -> None:
        """Add a line `void` if the last line is of an event that was not made."""
        if self.ends_with_event and unmade(self.revision):
            self.append([{"kind": "void"}])

    def write(self, bodies: Sequence[Body] = ()) -> None:
        """Add `bodies` and every event that the log lacks; return when they are on disk.

        Raises:
            OSError: they could not be written; the log is unchanged.
        """
        more = True
        while more:
            events = self._events_after(self.revision)
            if bodies or events:
                self.append([*bodies, *events])
            bodies = ()
            more = len(events) >= EVENTS_AT_ONCE

    def append(self, bodies: Iterable[Body]) -> None:
        """Add `bodies`, or only a checkpoint if there are none; return when they are on disk.

        Raises:
            OSError: they could not be written; the log is unchanged.
        """
        lines: list[bytes] = []
        end, revision, unsigned = self.end, self.revision, self._unsigned

        def add(body: Body) -> None:
            nonlocal end
            line, end = seal(body, end)
            lines.append(line)

        def add_checkpoint() -> None:
            add(sign(_stamped({"revision": revision}), end, self._key))

        ends_with_event = False
        for body in bodies:
            if unsigned == MAX_RECORDS_UNSIGNED:
                # Before a line, never after it: a line that ends the log may be one to make void.
                add_checkpoint()
                unsigned = 0
            revision = int(body.get("revision", revision))
            add(_stamped(body | {"revision": revision}))
            ends_with_event = body["kind"] in EVENT_KINDS
            unsigned += 1
        if not lines:  # the caller wants only a checkpoint
            add_checkpoint()
            unsigned = 0
        self._write_bytes(b"".join(lines))
        self.end, self.revision, self._unsigned = end, revision, unsigned
        self.ends_with_event = ends_with_event

    def _write_bytes(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self.size + written)
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        """Sign the unsigned lines and close the file."""
        try:
            if self._unsigned:
                self.append([])
        finally:
            self.release()

    def release(self) -> None:
        """Close the file, signed or not."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _stamped(body: Body) -> Body:
    return {"time_ns": time.time_ns()} | body


def _end_of(file: int) -> tuple[list[Record], bytes]:
    """Return the records from the last checkpoint on, or all, and the bytes after the last line.

    Raises:
        AuditBrokenError: a record was changed.
    """
    size = os.fstat(file).st_size
    window = _WINDOW_BYTES
    while True:
        start = max(0, size - window)
        first, *others = os.pread(file, size - start, start).split(b"\n")
        # The first part may begin within a line; the last part has no line end.
        *whole, fragment = [first, *others] if start == 0 else others or [first]
        if start == 0 or any(b'"kind":"checkpoint"' in line for line in whole):
            return _checked(whole, is_all=start == 0), fragment
        window *= 2


def _checked(lines: Sequence[bytes], *, is_all: bool) -> list[Record]:
    end = Position() if is_all else None
    kept: list[Record] = []
    for line in lines:
        record = unseal(line)
        found = None if record is None else Position(record["number"] - 1, record["previous"])
        if record is None or (end is not None and found != end):
            raise AuditBrokenError(
                f"the end of {LOG} was changed: `adapterdistill registry audit verify` names the"
                " line"
            )
        end = Position(record["number"], record["sha256"])
        if record["kind"] == "checkpoint":
            kept.clear()
        kept.append(record)
    return kept


def _is_begun(fragment: bytes, end: Position) -> bool:
    """Return whether it may be the beginning of a line after `end`."""
    expected = {
        b"number": b"%d" % (end.number + 1),
        b"previous": b'"%s"' % end.sha256.encode(),
    }
    kinds = {b'"%s"' % kind.encode() for kind in (*EVENT_KINDS, *_OTHER_KINDS)}
    return _BEGINNING.fullmatch(fragment) is not None and all(
        value in kinds if name == b"kind" else value == expected[name]
        for name, value in _PAIR.findall(fragment)
    )


def _private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key; make one if there is none."""
    if not path.exists():
        return _new_private_key(path)
    try:
        key = load_pem_private_key(read_secret(path), password=None)
    except ValueError:
        raise IntegrityError(f"{path.name}: expected a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError(f"{path.name}: expected an ed25519 key")
    return key


def _new_private_key(path: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sync(path.parent)
    return key
