"""Payloads on their way in and out: a few chunks in memory, never a whole payload."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import grpc

from adapterdistill.errors import (
    DigestMismatchError,
    InvalidPayloadError,
    RegistryUnavailableError,
)
from adapterdistill.manifest import Manifest
from adapterdistill.registry import wire
from adapterdistill.registry.admission import check_payload
from adapterdistill.registry.malformed import checked
from adapterdistill.registry.schema import Row
from adapterdistill.registry.store import BlobStore
from adapterdistill.registry.v1 import registry_pb2 as pb

MAX_TRANSFERS = 16
P = ParamSpec("P")
T = TypeVar("T")


class Transfers:
    """Moves payloads between streams and the store, on a few threads of its own."""

    def __init__(self, store: BlobStore, *, idle_timeout_s: float) -> None:
        """`idle_timeout_s` is how long a transfer may wait for its client's next step."""
        self._store = store
        self._idle_timeout_s = idle_timeout_s
        self._threads = ThreadPoolExecutor(4, "registry-disk")
        self._slots = asyncio.Semaphore(MAX_TRANSFERS)

    def close(self) -> None:
        """Waits for work in progress."""
        self._threads.shutdown()

    async def on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def has(self, manifest: Manifest) -> bool:
        """Whether the payload is on disk, whole."""
        return await self.on_disk(self._store.size, manifest.version) == manifest.payload_bytes

    async def receive(self, manifest: Manifest, context: Any) -> None:
        """Stores the payload that the rest of the client's stream brings, if it is admitted.

        Raises:
            InvalidPayloadError, DigestMismatchError: it is not what the manifest says.
            RegistryUnavailableError: the client fell silent.
        """
        async with self._slots:
            with self._store.stage() as staged:
                while (request := await self.read(context)) is not None:
                    if request.WhichOneof("part") != "chunk":
                        raise InvalidPayloadError("after the header, every message must be a chunk")
                    _check_chunk(request.chunk, staged.size, manifest.payload_bytes)
                    await self.on_disk(staged.write, request.chunk.data)
                if staged.size != manifest.payload_bytes:
                    raise InvalidPayloadError(
                        f"upload ended at {staged.size} of {manifest.payload_bytes} bytes"
                    )
                if staged.sha256() != manifest.version:
                    raise DigestMismatchError(
                        f"payload has sha256 {staged.sha256()[:12]},"
                        f" its version says {manifest.version[:12]}"
                    )
                await self.on_disk(check_payload, staged.path, manifest)
                await self.on_disk(staged.commit)

    async def read(self, context: Any) -> Any:
        """The client's next message, or None at the end of its stream."""
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                request = await context.read()
        except TimeoutError:
            raise RegistryUnavailableError(
                f"upload given up: nothing came for {self._idle_timeout_s:g} s"
            ) from None
        return None if request is grpc.aio.EOF else checked(request)

    async def send(self, row: Row, context: Any) -> None:
        """Writes the version's record, then its payload in chunks."""
        async with self._slots:
            with self._store.open(row.ref.version) as file:
                await self._write(context, pb.FetchResponse(version=wire.version_message(row)))
                offset = 0
                while data := await self.on_disk(file.read, wire.CHUNK_BYTES):
                    chunk = pb.Chunk(offset=offset, data=data)
                    await self._write(context, pb.FetchResponse(chunk=chunk))
                    offset += len(data)

    async def _write(self, context: Any, response: pb.FetchResponse) -> None:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await context.write(response)
        except TimeoutError:
            raise RegistryUnavailableError(
                f"download given up: nothing was read for {self._idle_timeout_s:g} s"
            ) from None


def _check_chunk(chunk: pb.Chunk, expected_offset: int, payload_bytes: int) -> None:
    size = len(chunk.data)
    if chunk.offset != expected_offset:
        raise InvalidPayloadError(f"chunk at offset {chunk.offset}, expected {expected_offset}")
    if not 0 < size <= wire.CHUNK_BYTES:
        raise InvalidPayloadError(f"chunk of {size} bytes, expected 1 to {wire.CHUNK_BYTES}")
    if expected_offset + size > payload_bytes:
        raise InvalidPayloadError(f"upload exceeds the {payload_bytes} bytes of its manifest")
