"""Uploads and downloads of versions as streams of messages."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import grpc

from adapterdistill.errors import (
    ChunkChecksumError,
    DigestMismatchError,
    InvalidManifestError,
    InvalidPayloadError,
    UploadIncompleteError,
)
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.registry import wire
from adapterdistill.registry.commitments import opened
from adapterdistill.registry.status import from_call
from adapterdistill.registry.v1 import registry_pb2 as pb

Progress = Callable[[int, int], None]
"""A function of the bytes done and the bytes in all; uploads call it from another thread."""


def chunk_message(offset: int, data: bytes) -> pb.Chunk:
    return pb.Chunk(offset=offset, data=data, crc32c=google_crc32c.value(data))


def check_chunk(chunk: pb.Chunk, expected_offset: int, payload_bytes: int) -> None:
    """Check that this is a payload's next chunk, undamaged.

    Raises:
        ChunkChecksumError: the chunk was damaged in transit.
        InvalidPayloadError: it is not the next one, or is too large.
    """
    size = len(chunk.data)
    if chunk.offset != expected_offset:
        raise InvalidPayloadError(f"chunk at offset {chunk.offset}, expected {expected_offset}")
    if not 0 < size <= wire.CHUNK_BYTES:
        raise InvalidPayloadError(f"chunk of {size} bytes, expected 1 to {wire.CHUNK_BYTES}")
    if expected_offset + size > payload_bytes:
        raise InvalidPayloadError(f"more than the {payload_bytes} bytes that the manifest names")
    # Older peers send no checksum.
    if chunk.HasField("crc32c") and chunk.crc32c != google_crc32c.value(chunk.data):
        raise ChunkChecksumError(
            f"the {size} bytes at offset {chunk.offset} do not match their checksum"
        )


def upload(
    registry: Any,
    header: pb.PublishHeader,
    payload: bytes,
    timeout_s: float,
    on_progress: Progress | None,
) -> pb.Version:
    """Publish through the stub `registry` what the registry does not have yet.

    Raises:
        grpc.RpcError: as the stub raises it.
        UploadIncompleteError: the part that the registry kept was damaged; try again.
    """
    deadline = time.monotonic() + timeout_s
    offset = 0
    if len(payload) > wire.CHUNK_BYTES:  # a smaller payload is sent sooner than the question
        query = pb.QueryUploadRequest(name=header.name)
        staged_bytes = registry.QueryUpload(query, timeout=timeout_s).offset
        offset = min(staged_bytes, len(payload) - 1)
    messages = upload_messages(header, payload, offset, on_progress)
    try:
        answer = registry.Publish(messages, timeout=max(deadline - time.monotonic(), 0.001))
    except grpc.RpcError as error:
        if offset and isinstance(from_call(error, "publish"), DigestMismatchError):
            raise UploadIncompleteError(
                "the part of the upload that the registry kept was damaged"
            ) from None
        raise
    version: pb.Version = answer.version
    return version


def upload_messages(
    header: pb.PublishHeader, payload: bytes, offset: int, on_progress: Progress | None
) -> Iterator[pb.PublishRequest]:
    """Yield the header, then the payload from `offset` on."""
    yield pb.PublishRequest(header=header)
    for start in range(offset, len(payload), wire.CHUNK_BYTES):
        data = payload[start : start + wire.CHUNK_BYTES]
        yield pb.PublishRequest(chunk=chunk_message(start, data))
        if on_progress is not None:  # gRPC asks for the next chunk when it took this one
            on_progress(start + len(data), len(payload))


class Download:
    """A download that continues after a broken connection with the bytes it already has."""

    def __init__(
        self,
        ref: VersionRef,
        on_progress: Progress | None = None,
        check: Callable[[pb.Version], None] | None = None,
    ) -> None:
        """`check` raises if something is wrong with the version, before its payload is read."""
        self._ref = ref
        self._check = check
        self._on_progress = on_progress
        self._payload = bytearray()

    @property
    def size(self) -> int:
        """Number of bytes received so far."""
        return len(self._payload)

    def take(self, responses: Iterator[pb.FetchResponse]) -> tuple[Manifest, bytes]:
        """Read the rest of the version and return all of it, verified.

        Args:
            responses: the answer to a request for the payload from `size` on.

        Raises:
            InvalidManifestError, InvalidPayloadError: the responses break the protocol.
            ChunkChecksumError: a chunk was damaged in transit; the chunks before it are kept.
            DigestMismatchError: the bytes are not the version's payload; none of them is kept.
        """
        first = next(responses, None)
        if first is None or first.WhichOneof("part") != "version":
            raise InvalidManifestError(
                f"the download of {self._ref.name} did not begin with a manifest"
            )
        manifest = manifest_of(self._ref, first.version)
        if self._check is not None:
            self._check(first.version)
        for response in responses:
            check_chunk(response.chunk, self.size, manifest.payload_bytes)
            self._payload += response.chunk.data
            if self._on_progress is not None:
                self._on_progress(self.size, manifest.payload_bytes)
        payload = bytes(self._payload)
        if sha256_hex(payload) != self._ref.version:
            self._payload.clear()
            raise DigestMismatchError(f"the bytes of {self._ref.name} do not have its sha256")
        return manifest, payload


def read_manifest(version: pb.Version) -> Manifest:
    """Read the manifest with the names of the teachers that this caller may see.

    Raises:
        InvalidManifestError: it is malformed, or the registry opened other teachers than it has.
    """
    return opened(Manifest.from_json(version.manifest_json), wire.read_openings(version))


def manifest_of(ref: VersionRef, version: pb.Version) -> Manifest:
    """Read the manifest; InvalidManifestError if the registry sent another version than `ref`."""
    manifest = read_manifest(version)
    if manifest.ref != ref:
        raise InvalidManifestError(f"the registry answered {ref.name} with another version")
    return manifest
