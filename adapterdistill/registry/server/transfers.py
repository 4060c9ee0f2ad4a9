"""Uploads and downloads of payloads, with a few chunks in memory, never a whole payload."""

import asyncio
import functools
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc

from adapterdistill.errors import (
    ConfigError,
    DigestMismatchError,
    InvalidPayloadError,
    RegistryUnavailableError,
    UploadIncompleteError,
)
from adapterdistill.manifest import Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.access import Caller
from adapterdistill.registry.admission.admission import check_payload
from adapterdistill.registry.admission.quotas import Quotas, TransferSlots, limited_name
from adapterdistill.registry.admission.weight_statistics import WeightStatistics, measure
from adapterdistill.registry.index.schema import Row
from adapterdistill.registry.server.interceptors import checked
from adapterdistill.registry.server.staging import Upload, may_continue
from adapterdistill.registry.server.store import BlobStore
from adapterdistill.registry.server.turns import Turns
from adapterdistill.registry.streams import check_chunk, chunk_message
from adapterdistill.registry.v1 import registry_pb2 as pb

MAX_TRANSFERS = 64
"""In each direction: uploads do not keep downloads waiting."""
MIN_BYTES_PER_S = 16 << 10
"""Transfers that are slower for a while are ended; the client continues from there in its next
turn."""
P = ParamSpec("P")
T = TypeVar("T")


class Pace:
    """The least pace of a transfer: every interval has to move its share of bytes.

    What was moved faster before does not count: a transfer cannot save up time to stand still.
    """

    def __init__(self, limit: asyncio.Timeout, interval_s: float) -> None:
        self._limit = limit
        self._interval_s = interval_s
        self._bytes = 0

    def moved(self, size: int) -> None:
        """Count bytes; the next interval begins once this one's share has been moved."""
        self._bytes += size
        if self._bytes >= self._interval_s * MIN_BYTES_PER_S:
            self._bytes = 0
            self._limit.reschedule(asyncio.get_running_loop().time() + self._interval_s)

    def end(self) -> None:
        """Lift the limit."""
        self._limit.reschedule(None)


class Transfers:
    """Moves payloads between streams and the store, on a few threads of its own."""

    def __init__(self, store: BlobStore, quotas: Quotas, *, idle_timeout_s: float) -> None:
        """`idle_timeout_s` limits how long a transfer waits for its client's next step."""
        self._store = store
        self._idle_timeout_s = idle_timeout_s
        self._threads = Turns(4, "registry-disk")
        self._admission = Turns(1, "registry-admission")
        self._uploads = TransferSlots(MAX_TRANSFERS, quotas.transfers_at_once)
        self._downloads = TransferSlots(MAX_TRANSFERS, quotas.transfers_at_once)
        self._coming: Counter[str] = Counter()

    def close(self) -> None:
        """Wait for work in progress."""
        self._admission.shutdown()
        self._threads.shutdown()

    async def on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._threads.run(functools.partial(call, *args, **kwargs))

    async def measured(self, payload: Path, manifest: Manifest) -> tuple[WeightStatistics, float]:
        """Measure a payload, off the way of transfers; return also how many seconds it took."""

        def timed() -> tuple[WeightStatistics, float]:
            began = time.monotonic()
            return measure(payload, manifest), time.monotonic() - began

        return await self._admission.run(timed)

    async def has(self, manifest: Manifest) -> bool:
        """Return whether the payload is on disk, as it was published."""
        return await self.on_disk(self._store.is_sound, manifest.version)

    @asynccontextmanager
    async def _slot(self, slots: TransferSlots, caller: Caller) -> AsyncIterator["Pace"]:
        """Hold a slot for a transfer; end a transfer that is too slow, because others wait."""
        async with slots.hold(limited_name(caller)):
            try:
                async with asyncio.timeout(self._idle_timeout_s) as limit:
                    yield Pace(limit, self._idle_timeout_s)
            except TimeoutError:
                raise RegistryUnavailableError(
                    f"transfer ended: slower than {MIN_BYTES_PER_S >> 10} KiB a second for"
                    f" {self._idle_timeout_s:g} s"
                ) from None

    @asynccontextmanager
    async def named_or_removed(
        self, sha256: str, is_named: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[None]:
        """Hold around an upload and its entry in the index.

        If the entry fails, this removes the payload, which no quota would count.
        """
        self._coming[sha256] += 1
        try:
            yield
        except BaseException:
            here = self._store.size(sha256) is not None
            # Check the count last: nothing is awaited after it, so no other upload can begin.
            alone = not self._store.shared  # another process may be about to name it
            if here and alone and not await is_named() and self._coming[sha256] == 1:
                self._store.remove(sha256)
            raise
        finally:
            self._coming[sha256] -= 1
            if not self._coming[sha256]:
                del self._coming[sha256]

    async def receive(self, manifest: Manifest, caller: Caller, context: Any) -> None:
        """Store the payload in the rest of the client's stream, if it is admitted.

        Raises:
            InvalidPayloadError, DigestMismatchError: it is not the manifest's payload.
            UploadIncompleteError: it begins after the bytes that were kept, or ends early.
            RegistryUnavailableError: the client sent nothing for too long.
        """
        async with self._slot(self._uploads, caller) as pace:
            await self.on_disk(self._store.staging.sweep)
            first = await self._read_chunk(context)
            offset = 0 if first is None else first.offset
            if not 0 <= offset < manifest.payload_bytes:
                raise InvalidPayloadError(
                    f"upload from byte {offset}, expected 0 to {manifest.payload_bytes - 1}"
                )
            upload = self._store.staging.begin(caller, manifest.version)
            try:
                await self.on_disk(upload.open, offset)
                await self._fill(upload, first, manifest, context, pace)
            except BaseException as error:
                # Shielded: this call may be cancelled while its last write still runs.
                await asyncio.shield(self.on_disk(upload.leave, keep=may_continue(error)))
                raise

    async def _fill(
        self,
        upload: Upload,
        chunk: pb.Chunk | None,
        manifest: Manifest,
        context: Any,
        pace: "Pace",
    ) -> None:
        while chunk is not None:
            check_chunk(chunk, upload.size, manifest.payload_bytes)
            await self.on_disk(upload.write, chunk.data)
            pace.moved(len(chunk.data))
            chunk = await self._read_chunk(context)
        if upload.size != manifest.payload_bytes:
            raise UploadIncompleteError(
                f"upload ended at {upload.size} of {manifest.payload_bytes} bytes"
            )
        if upload.sha256() != manifest.version:
            raise DigestMismatchError(
                f"payload has sha256 {upload.sha256()[:12]},"
                f" its version says {manifest.version[:12]}"
            )
        pace.end()  # what follows is this registry's own work
        await self._admission.run(functools.partial(check_payload, upload.path, manifest))
        await self.on_disk(self._store.commit, upload)

    async def _read_chunk(self, context: Any) -> pb.Chunk | None:
        """Return the client's next chunk, or None at the end of its stream."""
        request = await self.read(context)
        if request is None:
            return None
        if request.WhichOneof("part") != "chunk":
            raise InvalidPayloadError("after the header, every message must be a chunk")
        chunk: pb.Chunk = request.chunk
        return chunk

    def staged_bytes(self, caller: Caller, sha256: str) -> int:
        """Return the offset from which the caller may continue its upload of a payload."""
        return self._store.staging.durable_bytes(caller, sha256)

    async def read(self, context: Any) -> Any:
        """Return the client's next message, or None at the end of its stream."""
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                request = await context.read()
        except TimeoutError:
            raise RegistryUnavailableError(
                f"upload ended: nothing came for {self._idle_timeout_s:g} s"
            ) from None
        return None if request is grpc.aio.EOF else checked(request)

    async def send(
        self,
        row: Row,
        offset: int,
        caller: Caller,
        context: Any,
        allowed: Callable[[], object] = lambda: None,
    ) -> None:
        """Write the version's record, then its payload from `offset` in chunks.

        `allowed` is called before each chunk; it raises once the caller may not read any more.
        """
        with self._store.open(row.ref.version) as file:
            payload_bytes = file.seek(0, os.SEEK_END)
            if not 0 <= offset <= payload_bytes:
                raise ConfigError(
                    f"offset must be 0 to {payload_bytes}, got {offset}", field="offset"
                )
            file.seek(offset)
            async with self._slot(self._downloads, caller) as pace:
                await self._write(context, pb.FetchResponse(version=wire.version_message(row)))
                while data := await self.on_disk(file.read, wire.CHUNK_BYTES):
                    allowed()
                    chunk = chunk_message(offset, data)
                    await self._write(context, pb.FetchResponse(chunk=chunk))
                    pace.moved(len(data))
                    offset += len(data)

    async def _write(self, context: Any, response: pb.FetchResponse) -> None:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await context.write(response)
        except TimeoutError:
            raise RegistryUnavailableError(
                f"download ended: nothing was read for {self._idle_timeout_s:g} s"
            ) from None
