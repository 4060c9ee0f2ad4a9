"""The audit log of a running service: changes write their lines first, refusals share the fsync."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from adapterdistill.errors import (
    AdapterDistillError,
    IntegrityError,
    InvalidManifestError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
)
from adapterdistill.manifest import VersionRef
from adapterdistill.registry import wire
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.index import events
from adapterdistill.registry.index.database import (
    UNREADABLE,
    Database,
    connect,
    is_shared,
    transaction,
)
from adapterdistill.registry.upkeep.audit import EVENTS_AT_ONCE, AuditLog
from adapterdistill.registry.upkeep.audit_line import Body

subject: ContextVar[str] = ContextVar("subject", default="")
"""The name that the current call is about, as the caller sent it; recorded if it is well formed."""
_UNWRITABLE = "the registry cannot write its audit log, and changes nothing until it can"
_UNKNOWN_CALLER = "nobody/unknown"
# These say nothing about the caller's rights, and recording them would let it fill the disk.
_NOT_RECORDED = (RateLimitedError, RegistryUnavailableError)
logger = logging.getLogger(__name__)


def records(error: AdapterDistillError) -> bool:
    """Say whether a refusal is recorded."""
    return not isinstance(error, _NOT_RECORDED)


class AuditTrail:
    """The audit log, open from construction, which adds missing events, to `close`.

    Raises:
        IntegrityError: the log has events that the index lacks: the index is an older one.
        AuditBrokenError: the end of the log was changed (`AuditLog`).
    """

    def __init__(self, root: Path) -> None:
        self._db = connect(root)
        self._shared = is_shared(root)
        try:
            with transaction(self._db) if self._shared else nullcontext():
                self._log = AuditLog(
                    root,
                    partial(_events_after, self._db),
                    partial(events.void_unmade, self._db),
                )
                newest = events.newest_revision(self._db)
        except BaseException:
            self._db.close()
            raise
        if newest < self._log.revision:
            self._log.close()
            self._db.close()
            raise IntegrityError(
                f"the audit log ends with change {self._log.revision}, the index with {newest}:"
                " restore the index that belongs to the log"
            )
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "registry-audit")
        self._waiting: list[tuple[Body, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._failed = False
        self._uncommitted = False

    @contextmanager
    def ahead(self, db: Database) -> Iterator[None]:
        """Commit the changes made in the block once their lines are in the log on disk.

        Raises:
            RegistryError: the log cannot be written; nothing was changed.
        """
        with self._lock:
            try:
                self._void(db)
                with transaction(db):
                    self._settle(db)
                    yield
                    if lines := _events_after(db, self._log.revision):
                        self._uncommitted = True
                        self._log.append(lines)
                self._failed = self._uncommitted = False
            except BaseException as error:
                with suppress(*UNREADABLE):  # otherwise the next change tries again
                    self._void(db)
                if not isinstance(error, OSError):
                    raise
                logger.error("the audit log cannot be written: %s", error.strerror)
                self._failed = True
                raise RegistryError(_UNWRITABLE) from None

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self._log.size

    def _void(self, db: Database) -> None:
        """Take back the line of a change that was not committed after all."""
        if self._uncommitted and not self._shared:  # `_settle` does it for every process
            self._log.void(partial(events.void_unmade, db))
        self._uncommitted = False

    def _settle(self, db: Database) -> None:
        """Read what other processes of a shared index added to the log, within their lock.

        If the last line is of a change that one of them never committed, it becomes void.
        """
        if not self._shared:
            return
        self._log.catch_up()
        if self._log.ends_with_event and events.void_unmade(db, self._log.revision):
            # This stays, whatever becomes of the change that follows.
            db.execute("COMMIT")
            db.begin_change()
            self._log.catch_up()
            self._log.void(partial(events.void_unmade, db))

    async def refused(self, call: str, caller: Caller | None, error: AdapterDistillError) -> None:
        """Record a refused write of `subject`; `caller` is None if it is unknown.

        Raises:
            RegistryError: the log cannot be written.
        """
        name = subject.get()
        await self._record(
            {
                "kind": "refused",
                "call": call,
                "caller": _UNKNOWN_CALLER if caller is None else str(caller),
                "name": name if _is_resource_name(name) else "",
                "reason": error.reason,
            }
        )

    async def renewed(self, caller: Caller, serials: Sequence[str]) -> None:
        """Record that certificates with these serials were issued to a caller that renews.

        Raises:
            RegistryError: the log cannot be written.
        """
        reason = f"certificates {' and '.join(serials)}"
        await self._record({"kind": "renewed", "caller": str(caller), "name": "", "reason": reason})

    async def _record(self, body: Body) -> None:
        """Add a line that is no event; return when it is on disk."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        if not await written:
            raise RegistryError(_UNWRITABLE)

    async def check(self) -> None:
        """Raise OSError while the log cannot be written."""
        if self._failed:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, ())

    def _write(self, bodies: Sequence[Body]) -> None:
        """Write lines that are no events; raises OSError."""
        with self._lock:
            try:
                if self._uncommitted:
                    raise OSError("the line of a change that was not committed is not void yet")
                with self._turn():
                    self._log.append(bodies)
            except BaseException:
                self._failed = True
                raise
            self._failed = False

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other processes of a shared index from writing to the log."""
        if not self._shared:
            yield
            return
        with transaction(self._db):
            self._settle(self._db)
            yield

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                bodies = [body for body, _ in batch]
                await loop.run_in_executor(self._thread, self._write, bodies)
            except Exception:
                logger.exception("the audit log cannot be written")
                is_written = False
            else:
                is_written = True
            for _, written in batch:
                if not written.done():  # a cancelled call does not wait any more
                    written.set_result(is_written)
        self._writing = None

    def close(self) -> None:
        """Wait for lines in progress, and sign the end of the log."""
        self._thread.shutdown()
        with ExitStack() as stack, suppress(RegistryUnavailableError):
            stack.callback(self._db.close)
            stack.callback(self._log.release)
            with self._turn():
                self._log.close()


def _events_after(db: Database, revision: int) -> list[Body]:
    rows = events.after(db, revision, ANYONE, max_rows=EVENTS_AT_ONCE)
    # The log has revisions; what callers are told instead is theirs alone.
    return [{k: value for k, value in vars(row).items() if k != "told"} for row in rows]


def _is_resource_name(name: str) -> bool:
    for parse in (VersionRef.parse, wire.parse_alias_name, wire.parse_adapter_name):
        try:
            parse(name)
        except InvalidManifestError:
            continue
        return True
    return False
