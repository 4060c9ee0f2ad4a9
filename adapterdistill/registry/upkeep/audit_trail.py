"""The audit log of a running service: calls wait for their lines, and share the fsync."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
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
from adapterdistill.registry.index.schema import connect
from adapterdistill.registry.upkeep.audit import EVENTS_AT_ONCE, AuditLog
from adapterdistill.registry.upkeep.audit_line import Body

subject: ContextVar[str] = ContextVar("subject", default="")
"""The name that the current call is about, as the caller sent it; recorded if it is well formed."""
_UNKNOWN_CALLER = "nobody/unknown"
# These say nothing about the caller's rights, and recording them would let it fill the disk.
_NOT_RECORDED = (RateLimitedError, RegistryUnavailableError)
logger = logging.getLogger(__name__)


class AuditTrail:
    """The audit log, open from construction, which adds missing events, to `close`.

    Raises:
        IntegrityError: the log has events that the index lacks: the index is an older one.
        AuditBrokenError: the end of the log was changed (`AuditLog`).
    """

    def __init__(self, root: Path) -> None:
        self._db = connect(root / "index.sqlite3")
        try:
            self._log = AuditLog(root, self._events_after)
            newest = events.newest_revision(self._db)
            if newest < self._log.revision:
                self._log.close()
                raise IntegrityError(
                    f"the audit log ends with change {self._log.revision}, the index with {newest}:"
                    " restore the index that belongs to the log"
                )
        except BaseException:
            self._db.close()
            raise
        self._thread = ThreadPoolExecutor(1, "registry-audit")
        self._waiting: list[tuple[Sequence[Body], asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._failed = False

    def _events_after(self, revision: int) -> list[Body]:
        rows = events.after(self._db, revision, ANYONE, max_rows=EVENTS_AT_ONCE)
        return [vars(row) for row in rows]

    async def settle(self) -> None:
        """Wait until every event so far is in the log on disk.

        Raises:
            RegistryError: the log cannot be written.
        """
        await self._written(())

    async def refused(self, call: str, caller: Caller | None, error: AdapterDistillError) -> None:
        """Record a refused write of `subject`; `caller` is None if it is unknown.

        Raises:
            RegistryError: the log cannot be written.
        """
        if isinstance(error, _NOT_RECORDED):
            return
        name = subject.get()
        body: Body = {
            "kind": "refused",
            "call": call,
            "caller": _UNKNOWN_CALLER if caller is None else str(caller),
            "name": name if _is_resource_name(name) else "",
            "reason": error.reason,
        }
        await self._written((body,))

    async def check(self) -> None:
        """Raise OSError while the log cannot be written; write missing lines once it can."""
        if self._failed:
            try:
                await self.settle()
            except RegistryError as error:
                raise OSError(str(error)) from None

    async def _written(self, bodies: Sequence[Body]) -> None:
        """Wait until `bodies` and all events so far are in the log."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((bodies, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        if not await written:
            raise RegistryError("the registry cannot write its audit log")

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            bodies = [body for bodies, _ in batch for body in bodies]
            try:
                await loop.run_in_executor(self._thread, self._log.write, bodies)
            except Exception:
                logger.exception("the audit log cannot be written")
                self._failed = True
            else:
                self._failed = False
            for _, written in batch:
                if not written.done():  # a cancelled call does not wait any more
                    written.set_result(not self._failed)
        self._writing = None

    def close(self) -> None:
        """Wait for lines in progress, and sign the end of the log."""
        self._thread.shutdown()
        self._log.close()
        self._db.close()


def _is_resource_name(name: str) -> bool:
    for parse in (VersionRef.parse, wire.parse_alias_name, wire.parse_adapter_name):
        try:
            parse(name)
        except InvalidManifestError:
            continue
        return True
    return False
