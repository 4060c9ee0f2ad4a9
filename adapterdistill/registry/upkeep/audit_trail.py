"""The audit log beside a running service: calls wait for their lines, and share the fsync."""

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
from adapterdistill.registry.upkeep.audit import CHANGES_AT_ONCE, AuditLog
from adapterdistill.registry.upkeep.audit_line import Body

subject: ContextVar[str] = ContextVar("subject", default="")
"""What the call at hand is about, in the caller's words; recorded if it is a name of ours."""
_NOBODY_KNOWN = "nobody/unknown"
# They say nothing of the caller's rights or wares, and would let it fill the disk.
_NOT_RECORDED = (RateLimitedError, RegistryUnavailableError)
logger = logging.getLogger(__name__)


class AuditTrail:
    """Open from construction, which takes up what the log lacks of the index, to `close`.

    Raises:
        IntegrityError: the log knows changes that the index does not: the index is an older one.
        AuditBrokenError: as `AuditLog`.
    """

    def __init__(self, root: Path) -> None:
        self._db = connect(root / "index.sqlite3")
        try:
            self._log = AuditLog(root, self._changes_after)
            newest = events.newest_revision(self._db)
            if newest < self._log.revision:
                self._log.close()
                raise IntegrityError(
                    f"the audit log has change {self._log.revision}, the index only {newest}:"
                    " restore the index that belongs to it"
                )
        except BaseException:
            self._db.close()
            raise
        self._thread = ThreadPoolExecutor(1, "registry-audit")
        self._waiting: list[tuple[Sequence[Body], asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._failed = False

    def _changes_after(self, revision: int) -> list[Body]:
        rows = events.after(self._db, revision, ANYONE, max_rows=CHANGES_AT_ONCE)
        return [vars(row) for row in rows]

    async def settle(self) -> None:
        """Returns once every change so far is in the log on disk.

        Raises:
            RegistryError: the log cannot be written.
        """
        await self._written(())

    async def refused(self, call: str, caller: Caller | None, error: AdapterDistillError) -> None:
        """Records a write that was refused; `subject` says of what.

        `caller` is None where the call did not get so far as to say who calls.

        Raises:
            RegistryError: the log cannot be written.
        """
        if isinstance(error, _NOT_RECORDED):
            return
        name = subject.get()
        body: Body = {
            "kind": "refused",
            "call": call,
            "caller": _NOBODY_KNOWN if caller is None else str(caller),
            "name": name if _is_resource_name(name) else "",
            "reason": error.reason,
        }
        await self._written((body,))

    async def check(self) -> None:
        """Raises OSError while the log cannot be written; writes what it lacks once it can."""
        if self._failed:
            try:
                await self.settle()
            except RegistryError as error:
                raise OSError(str(error)) from None

    async def _written(self, bodies: Sequence[Body]) -> None:
        """Returns when `bodies` and all changes so far are in the log."""
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
                if not written.done():  # a call that was cancelled waits no more
                    written.set_result(not self._failed)
        self._writing = None

    def close(self) -> None:
        """Waits for lines on their way and signs the end of the log."""
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
