"""The calls of RegistryService, on a store and an index.

Nothing here blocks the event loop: the index runs on one thread of its own, file work on a few
others. An upload holds at most a few chunks in memory.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc

from adapterdistill.errors import (
    AdapterDistillError,
    DigestMismatchError,
    EncoderMismatchError,
    InvalidManifestError,
    InvalidPayloadError,
    RegistryError,
    RegistryUnavailableError,
)
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry import wire
from adapterdistill.registry.admission import (
    Limits,
    check_manifest,
    check_payload,
    parse_manifest,
)
from adapterdistill.registry.index import Index
from adapterdistill.registry.schema import Row
from adapterdistill.registry.status import to_status
from adapterdistill.registry.store import BlobStore
from adapterdistill.registry.v1 import registry_pb2 as pb

MAX_RELATIVES = 5000  # a direction; a few hundred bytes each, within one message
MAX_TRANSFERS = 16
logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[["RegistryService", Any, Any], Awaitable[T]]


def _answered(call: Call[T]) -> Call[T]:
    """Turns errors into statuses; what we did not foresee is logged and not shown."""

    @functools.wraps(call)
    async def answer(self: "RegistryService", request: Any, context: Any) -> T:
        refusal: AdapterDistillError
        try:
            return await call(self, request, context)
        except AdapterDistillError as error:
            refusal = error
        except Exception:
            logger.exception("%s failed", call.__name__)
            refusal = RegistryError("the registry failed; its log has the cause")
        code, message, trailer = to_status(refusal)
        logger.info("%s refused: %s %s", call.__name__, code.name, refusal.reason)
        await context.abort(code, message, trailer)
        raise AssertionError("abort returned")

    return answer


class RegistryService:
    """Implements the service of registry.proto; open from construction to `close`.

    Its methods bear the names of the calls, which gRPC looks up.
    """

    def __init__(self, root: Path, limits: Limits, *, idle_timeout_s: float = 30.0) -> None:
        """`idle_timeout_s` is how long a transfer may wait for its client's next step."""
        self._limits = limits
        self._idle_timeout_s = idle_timeout_s
        self._store = BlobStore(root)
        try:
            self._index = Index(root / "index.sqlite3")
        except BaseException:
            self._store.close()
            raise
        swept = self._store.sweep(self._index.payloads())
        if swept:
            logger.info("removed %d files of unfinished uploads", swept)
        self._index_thread = ThreadPoolExecutor(1, "registry-index")
        self._disk_threads = ThreadPoolExecutor(4, "registry-disk")
        self._transfers = asyncio.Semaphore(MAX_TRANSFERS)

    def close(self) -> None:
        """Waits for work in progress; the folder may then be opened again."""
        self._disk_threads.shutdown()
        self._index_thread.shutdown()
        self._index.close()
        self._store.close()

    async def check(self) -> None:
        """Raises whatever stands in the way of serving calls."""
        await self._on_index(self._index.check)
        await self._on_disk(self._store.check_writable)

    async def _on_index(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._index_thread, work)

    async def _on_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._disk_threads, work)

    @_answered
    async def Publish(self, _requests: Any, context: Any) -> pb.PublishResponse:  # noqa: N802
        first = await self._read(context)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidManifestError("the first message of an upload must be its header")
        manifest = parse_manifest(first.header.manifest_json)
        if first.header.name != manifest.ref.name:
            raise InvalidManifestError("the header's name is not that of its manifest")
        check_manifest(manifest, self._limits)
        row = await self._on_index(self._index.published, manifest)
        stored_bytes = await self._on_disk(self._store.size, manifest.version)
        # A payload that the disk lost is taken again.
        if row is None or stored_bytes != manifest.payload_bytes:
            async with self._transfers:
                row = await self._receive(manifest, context)
            logger.info("published %s, %d bytes", manifest.ref.name, manifest.payload_bytes)
        return pb.PublishResponse(version=wire.version_message(row))

    async def _receive(self, manifest: Manifest, context: Any) -> Row:
        with self._store.stage() as staged:
            while (request := await self._read(context)) is not None:
                if request.WhichOneof("part") != "chunk":
                    raise InvalidPayloadError("after the header, every message must be a chunk")
                _check_chunk(request.chunk, staged.size, manifest.payload_bytes)
                await self._on_disk(staged.write, request.chunk.data)
            if staged.size != manifest.payload_bytes:
                raise InvalidPayloadError(
                    f"upload ended at {staged.size} of {manifest.payload_bytes} bytes"
                )
            if staged.sha256() != manifest.version:
                raise DigestMismatchError(
                    f"payload has sha256 {staged.sha256()[:12]},"
                    f" its version says {manifest.version[:12]}"
                )
            await self._on_disk(check_payload, staged.path, manifest)
            await self._on_disk(staged.commit)
        # Last: the version exists from here on.
        return await self._on_index(self._index.add, manifest)

    async def _read(self, context: Any) -> Any:
        """The client's next message, or None at the end of its stream."""
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                request = await context.read()
        except TimeoutError:
            raise RegistryUnavailableError(
                f"upload given up: nothing came for {self._idle_timeout_s:g} s"
            ) from None
        return None if request is grpc.aio.EOF else request

    @_answered
    async def Fetch(self, request: pb.FetchRequest, context: Any) -> None:  # noqa: N802
        row = await self._on_index(self._index.get, VersionRef.parse(request.name))
        wanted = wire.read_encoder(request)
        if wanted not in (None, (row.weights_sha256, row.tokenizer_sha256)):
            raise EncoderMismatchError(
                f"{row.ref.name} belongs to another encoder, {row.weights_sha256[:12]}"
            )
        async with self._transfers:
            with self._store.open(row.ref.version) as file:
                await self._write(context, pb.FetchResponse(version=wire.version_message(row)))
                offset = 0
                while data := await self._on_disk(file.read, wire.CHUNK_BYTES):
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

    @_answered
    async def GetVersion(self, request: pb.GetVersionRequest, _context: Any) -> Any:  # noqa: N802
        row = await self._on_index(self._index.get, VersionRef.parse(request.name))
        return pb.GetVersionResponse(version=wire.version_message(row))

    @_answered
    async def ListVersions(self, request: pb.ListVersionsRequest, _context: Any) -> Any:  # noqa: N802
        chosen = wire.read_filter(request.filter)
        max_rows = wire.read_page_size(request.page_size)
        if request.page_token:
            before, newest = wire.read_page_token(request.page_token, chosen)
        else:
            newest = await self._on_index(self._index.newest_revision)
            before = newest + 1
        rows, more = await self._on_index(
            self._index.page,
            chosen,
            before=before,
            newest=newest,
            max_rows=max_rows,
            max_bytes=wire.MAX_PAGE_BYTES,
        )
        summary = request.view == pb.VERSION_VIEW_SUMMARY
        message = wire.summary_message if summary else wire.version_message
        return pb.ListVersionsResponse(
            versions=[message(row) for row in rows],
            next_page_token=wire.page_token(rows[-1].revision, newest, chosen) if more else "",
        )

    @_answered
    async def GetAlias(self, request: pb.GetAliasRequest, _context: Any) -> Any:  # noqa: N802
        row = await self._on_index(self._index.alias, *wire.parse_alias_name(request.name))
        return pb.GetAliasResponse(alias=wire.alias_message(row))

    @_answered
    async def SetAlias(self, request: pb.SetAliasRequest, _context: Any) -> Any:  # noqa: N802
        ref = VersionRef.parse(request.alias.version_name)
        tenant, adapter, alias = wire.parse_alias_name(request.alias.name)
        if (tenant, adapter) != (ref.tenant, ref.adapter):
            raise InvalidManifestError("an alias names versions of its own adapter only")
        etag = request.alias.etag or None
        row = await self._on_index(self._index.set_alias, ref, alias, etag)
        return pb.SetAliasResponse(alias=wire.alias_message(row))

    @_answered
    async def GetLineage(self, request: pb.GetLineageRequest, _context: Any) -> Any:  # noqa: N802
        row = await self._on_index(self._index.get, VersionRef.parse(request.name))
        up, up_cut = await self._on_index(self._index.ancestors, row.ref, MAX_RELATIVES)
        down, down_cut = await self._on_index(self._index.descendants, row.ref, MAX_RELATIVES)
        return pb.GetLineageResponse(
            ancestors=[pb.Relative(name=name, depth=depth) for name, depth in up],
            descendants=[pb.Relative(name=name, depth=depth) for name, depth in down],
            truncated=up_cut or down_cut,
        )


def _check_chunk(chunk: pb.Chunk, expected_offset: int, payload_bytes: int) -> None:
    size = len(chunk.data)
    if chunk.offset != expected_offset:
        raise InvalidPayloadError(f"chunk at offset {chunk.offset}, expected {expected_offset}")
    if not 0 < size <= wire.CHUNK_BYTES:
        raise InvalidPayloadError(f"chunk of {size} bytes, expected 1 to {wire.CHUNK_BYTES}")
    if expected_offset + size > payload_bytes:
        raise InvalidPayloadError(f"upload exceeds the {payload_bytes} bytes of its manifest")
