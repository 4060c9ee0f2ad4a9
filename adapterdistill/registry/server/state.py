"""The state of a running registry: its open parts, their threads, and the waiting watchers.

Nothing here blocks the event loop: the index runs on a thread of its own, file work on a few
others.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.registry import wire
from adapterdistill.registry.access import Caller
from adapterdistill.registry.admission.admission import Limits
from adapterdistill.registry.admission.quotas import CallLimits, Quotas, StorageQuota
from adapterdistill.registry.index.database import connect, is_shared, snapshot
from adapterdistill.registry.index.idempotency import Answer, once
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.server.metrics import Metrics
from adapterdistill.registry.server.renewing import Renewing
from adapterdistill.registry.server.store import BlobStore
from adapterdistill.registry.server.transfers import Transfers
from adapterdistill.registry.server.turns import Turns
from adapterdistill.registry.trust.credentials import ServerCredentials
from adapterdistill.registry.upkeep.audit_trail import AuditTrail

DEFAULT_QUOTAS = Quotas()
_ROW_BYTES = 256
"""What a changed row counts for, with its part of the indexes."""
_FOLLOW_S = 0.1
"""Seconds between two looks for the changes of other processes."""
logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class OpenRegistry:
    """The store, index and audit log of one folder, open from construction to `close`."""

    def __init__(
        self,
        root: Path,
        limits: Limits,
        quotas: Quotas = DEFAULT_QUOTAS,
        credentials: ServerCredentials | None = None,
        *,
        passphrase: bytes | None = None,
        idle_timeout_s: float = 30.0,
        metrics: Metrics | None = None,
    ) -> None:
        """Open the folder.

        Args:
            credentials: identify callers by their certificates; None serves anyone.
            passphrase: opens the key of the authority, if it is in the folder and encrypted.
            idle_timeout_s: how long a transfer may wait for its client's next step.
            metrics: count the calls; by default in metrics that nobody reads.
        """
        self.metrics = metrics or Metrics(root)
        self._limits = limits
        self._authority = Renewing(root, passphrase)
        self.credentials = credentials
        self.limited = CallLimits(quotas)
        self._storage = StorageQuota(quotas)
        with ExitStack() as opened:
            self._store = BlobStore(root, quotas, shared=is_shared(root))
            opened.callback(self._store.close)
            # Reads do not wait for the disk that changes wait for, nor for the reads of watches.
            self._index, self._reading, self._watched = (
                Index(
                    opened.enter_context(closing(connect(root))),
                    refuse_descendants=limits.refuse_descendants,
                )
                for _ in range(3)
            )
            self.audit = AuditTrail(root)
            opened.callback(self.audit.close)
            swept = self._store.sweep(self._index.payloads)
            if swept:
                logger.info("removed %d files of abandoned uploads", swept)
            self._opened = opened.pop_all()
        self._pages = wire.PageTokens(self._index.secret("page_token"))
        self._index_thread = Turns(1, "registry-index")
        self._reading_thread = Turns(1, "registry-reading")
        self._watch_thread = Turns(1, "registry-watch")
        self._transfers = Transfers(self._store, quotas, idle_timeout_s=idle_timeout_s)
        self._changed = asyncio.Event()
        self._stopping = False
        self._incarnation = self._index.incarnation()
        self.closed = self._index.closed()
        """Why all but operators are refused; empty if they are not."""
        if self.closed:
            logger.warning("closed to all but operators: %s", self.closed)

    def close(self) -> None:
        """Wait for work in progress and close; the folder may then be opened again."""
        self._transfers.close()
        self._watch_thread.shutdown()
        self._reading_thread.shutdown()
        self._index_thread.shutdown()
        self._opened.close()

    def end_watches(self) -> None:
        """End the watches, which would never end by themselves."""
        self._stopping = True
        self._notify_watchers()

    async def check(self) -> None:
        """Raise the error that keeps the registry from serving calls, if there is one."""
        await self._on_index(self._index.check)
        self.closed = await self._on_index(self._index.closed)
        await self.audit.check()
        await self._transfers.on_disk(self._store.check_writable)

    async def _on_index(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._index_thread.run(functools.partial(call, *args, **kwargs))

    async def _on_reading(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read one moment of `self._reading`, the index on a connection and a thread for reads."""

        def read() -> T:
            with snapshot(self._reading.db):
                return call(*args, **kwargs)

        return await self._reading_thread.run(read)

    async def _on_watched(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read `self._watched`, the index on a connection and a thread for watches alone."""
        return await self._watch_thread.run(functools.partial(call, *args, **kwargs))

    async def _change(self, caller: Caller, size: int, change: Callable[[], T]) -> T:
        """Run a change of the index like `_on_index`, and notify the watchers.

        Its lines are in the audit log before it takes effect. What it wrote is counted for the
        caller, with the `size` of its request.
        """

        def changed() -> tuple[T, int]:
            rows, log_bytes = self._index.db.total_changes, self.audit.size
            with self.audit.ahead(self._index.db):
                result = change()
            rows = self._index.db.total_changes - rows
            return result, size + rows * _ROW_BYTES + self.audit.size - log_bytes

        result, written_bytes = await self._on_index(changed)
        self.limited.charge_change(caller, written_bytes)
        self._notify_watchers()
        return result

    async def _once(
        self,
        caller: Caller,
        request: Any,
        answer: type[Answer],
        change: Callable[[], Answer],
    ) -> Answer:
        """Run a change once; a repeated request gets the first answer (`idempotency`)."""
        made = functools.partial(once, self._index.db, caller, request, answer, change)
        return await self._change(caller, request.ByteSize(), made)

    async def follow_others(self) -> None:
        """Notify the watchers of changes that other processes make, if the index is shared."""
        seen = 0
        while self._store.shared:
            with suppress(RegistryUnavailableError):
                newest = await self._on_watched(self._watched.newest_revision)
                if newest != seen:
                    seen = newest
                    self._notify_watchers()
            await asyncio.sleep(_FOLLOW_S)

    def _notify_watchers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
