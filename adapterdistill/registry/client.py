"""The owner's side of the registry: plain values in, plain values out, domain errors raised."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from adapterdistill.errors import (
    DigestMismatchError,
    InvalidManifestError,
    InvalidPayloadError,
    RegistryUnavailableError,
    WithdrawnError,
)
from adapterdistill.manifest import EncoderRef, Manifest, Signature, VersionRef, sha256_hex
from adapterdistill.registry import wire
from adapterdistill.registry.access import EVERYONE, Consent
from adapterdistill.registry.schema import State
from adapterdistill.registry.status import from_call
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc

T = TypeVar("T")
_LIST_PAGE = 200
_OPTIONS = (
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
    # gRPC's own pause before it connects again grows to 2 minutes, longer than any deadline here.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The registry is the only channel of a federation, never to pass through a web proxy unasked.
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True)
class Published:
    """A version as the registry has it."""

    manifest: Manifest
    state: State
    state_reason: str
    """Why it is withdrawn or in quarantine."""
    withdrawn_teacher: str
    """Name of a withdrawn version that it learnt from, at any depth; empty if there is none."""
    consent: Consent | None
    """Who may learn from the adapter; None: that is not for this caller to know."""


@dataclass(frozen=True)
class Summary:
    """What choosing among many versions needs of each."""

    ref: VersionRef
    signature: Signature | None


@dataclass(frozen=True)
class Relative:
    """An ancestor or descendant; depth 1 is a direct teacher or student."""

    ref: VersionRef
    depth: int


@dataclass(frozen=True)
class Lineage:
    """Nearest first. `truncated`: there are more than the registry tells in one answer."""

    ancestors: tuple[Relative, ...]
    descendants: tuple[Relative, ...]
    truncated: bool


class RegistryClient:
    """Calls the registry at `address` (HOST:PORT). Thread-safe; never carry it over a fork.

    Each call has `timeout_s` in all. While the registry cannot be reached it is tried again until
    then, so that a restart is ridden out; every call may be repeated without harm.

    Every method raises RegistryUnavailableError when the time is over, and otherwise the error
    that the registry raised: its type survives the wire.
    """

    def __init__(self, address: str, *, timeout_s: float = 30.0) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._channel: Any = grpc.insecure_channel(address, options=_OPTIONS)
        stub_class: Any = registry_pb2_grpc.RegistryServiceStub  # generated without types
        self._stub: Any = stub_class(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def publish(
        self, manifest: Manifest, payload: bytes, *, consent: Consent = EVERYONE
    ) -> Manifest:
        """Returns once the version is on the registry's disk. Publishing it again is harmless.

        `consent` says who may learn from the adapter, if this is its first version; `set_consent`
        changes it.

        Raises:
            WithdrawnError: the version, or a teacher of it, was taken back.
            DigestMismatchError: `payload` is not the manifest's; nothing was sent.
            InvalidManifestError: also if the version is published with another manifest.
            InvalidPayloadError, EncoderMismatchError: the registry does not admit it.
        """
        if sha256_hex(payload) != manifest.version:
            raise DigestMismatchError(f"the payload is not that of {manifest.ref.name}")

        def call(timeout_s: float) -> Manifest:
            answer = self._stub.Publish(_upload(manifest, payload, consent), timeout=timeout_s)
            return Manifest.from_json(answer.version.manifest_json)

        return self._retried("publish", call)

    def fetch(
        self, ref: VersionRef, *, encoder: EncoderRef | None = None
    ) -> tuple[Manifest, bytes]:
        """The version's manifest and payload, whose sha256 was verified.

        Raises:
            NotFoundError: there is no such version for this caller.
            EncoderMismatchError: `encoder` is given and the version belongs to another.
            DigestMismatchError: what came is not the version's payload.
        """
        request = pb.FetchRequest(name=ref.name, encoder=_digests(encoder))

        def call(timeout_s: float) -> tuple[Manifest, bytes]:
            responses = self._stub.Fetch(request, timeout=timeout_s)
            try:
                return _download(ref, responses)
            finally:
                responses.cancel()  # of an answer that is complete, this does nothing

        return self._retried("fetch", call)

    def get(self, ref: VersionRef) -> Manifest:
        """Raises NotFoundError if there is no such version for this caller, WithdrawnError if it
        was taken back."""
        published = self.describe(ref)
        if published.state == "withdrawn":
            raise WithdrawnError(f"{ref.name} is withdrawn: {published.state_reason}")
        return published.manifest

    def describe(self, ref: VersionRef) -> Published:
        """What the registry tells of a version, withdrawn or not; NotFoundError as `get`."""
        request = pb.GetVersionRequest(name=ref.name)
        version = self._call("get", self._stub.GetVersion, request).version
        return Published(
            manifest=_manifest_of(ref, version),
            state=wire.read_state(version),
            state_reason=version.state_reason,
            withdrawn_teacher=version.withdrawn_teacher,
            consent=wire.read_consent(version.consent) if version.HasField("consent") else None,
        )

    def list(
        self,
        *,
        tenant: str | None = None,
        encoder: EncoderRef | None = None,
        exclude_tenant: str | None = None,
        latest_only: bool = True,
        task: str | None = None,
        language: str | None = None,
        labels: Collection[str] = (),
    ) -> Iterator[Manifest]:
        """Versions as the registry has them when the first is asked for, newest first.

        `encoder` selects by digests; `latest_only` takes the newest version of each adapter;
        `labels` takes those that have all of them.
        """
        chosen = pb.VersionFilter(
            tenant=tenant or "",
            exclude_tenant=exclude_tenant or "",
            encoder=_digests(encoder),
            latest_only=latest_only,
            task=task or "",
            language=language or "",
            labels=labels,
        )
        request = pb.ListVersionsRequest(filter=chosen, page_size=_LIST_PAGE)
        for version in self._listed(request):
            yield Manifest.from_json(version.manifest_json)

    def summaries(self, *, encoder: EncoderRef, exclude_tenant: str) -> Iterator[Summary]:
        """The newest version of each adapter of others, as `list` orders them, manifests left out.

        Raises InvalidManifestError where the registry sends a malformed name or signature.
        """
        chosen = pb.VersionFilter(
            exclude_tenant=exclude_tenant, encoder=_digests(encoder), latest_only=True
        )
        request = pb.ListVersionsRequest(
            filter=chosen, page_size=wire.MAX_PAGE, view=pb.VERSION_VIEW_SUMMARY
        )
        for version in self._listed(request):
            yield Summary(VersionRef.parse(version.name), wire.read_signature(version))

    def _listed(self, request: pb.ListVersionsRequest) -> Iterator[pb.Version]:
        while True:
            page = self._call("list", self._stub.ListVersions, request)
            yield from page.versions
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def resolve_alias(self, tenant: str, adapter: str, alias: str) -> tuple[VersionRef, str]:
        """The version that the alias names, and its etag; NotFoundError if there is none."""
        request = pb.GetAliasRequest(name=wire.alias_name(tenant, adapter, alias))
        answer = self._call("resolve_alias", self._stub.GetAlias, request)
        return VersionRef.parse(answer.alias.version_name), answer.alias.etag

    def set_alias(self, ref: VersionRef, alias: str, etag: str | None = None) -> str:
        """Creates the alias (etag None) or moves it (the etag that it has); returns the new etag.

        An alias that already names `ref` stays as it is, whatever the etag.

        Raises:
            AliasConflictError: the alias has another etag, or exists and etag is None.
        """
        message = pb.Alias(
            name=wire.alias_name(ref.tenant, ref.adapter, alias),
            version_name=ref.name,
            etag=etag or "",
        )
        request = pb.SetAliasRequest(alias=message)
        return str(self._call("set_alias", self._stub.SetAlias, request).alias.etag)

    def lineage(self, ref: VersionRef) -> Lineage:
        """Everything that `ref` learnt from and that learnt from it, at any depth."""
        request = pb.GetLineageRequest(name=ref.name)
        answer = self._call("lineage", self._stub.GetLineage, request)
        ancestors, descendants = (
            tuple(Relative(VersionRef.parse(one.name), one.depth) for one in relatives)
            for relatives in (answer.ancestors, answer.descendants)
        )
        return Lineage(ancestors, descendants, answer.truncated)

    def set_consent(self, tenant: str, adapter: str, consent: Consent) -> None:
        """From now on only these may see the adapter and learn from it.

        Raises NotFoundError if nothing of it is published.
        """
        request = pb.SetConsentRequest(
            adapter_name=wire.adapter_name(tenant, adapter), consent=wire.consent_message(consent)
        )
        self._call("set_consent", self._stub.SetConsent, request)

    def withdraw(self, ref: VersionRef, reason: str) -> tuple[Relative, ...]:
        """Takes a version back for ever, its owner or an operator; returns those that learnt from
        it and are marked now. `reason` is shown to whoever asks for the version."""
        request = pb.WithdrawRequest(name=ref.name, reason=reason)
        answer = self._call("withdraw", self._stub.Withdraw, request)
        return tuple(Relative(VersionRef.parse(one.name), one.depth) for one in answer.descendants)

    def release(self, ref: VersionRef) -> None:
        """Lets a version out of quarantine; for operators."""
        self._call("release", self._stub.ReleaseVersion, pb.ReleaseVersionRequest(name=ref.name))

    def health(self) -> bool:
        """Whether the registry answers, at once, that it is ready."""
        try:
            answer = self._health.Check(
                health_pb2.HealthCheckRequest(), timeout=min(self.timeout_s, 5.0)
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(self, what: str, method: Any, request: Any) -> Any:
        return self._retried(what, lambda timeout_s: method(request, timeout=timeout_s))

    def _retried(self, what: str, call: Callable[[float], T]) -> T:
        """`call(seconds left)`, again while the registry is unavailable and time is left."""
        deadline = time.monotonic() + self.timeout_s
        attempts = Retrying(
            retry=retry_if_exception_type(RegistryUnavailableError),
            stop=stop_before_delay(self.timeout_s),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        )

        def attempt() -> T:
            try:
                return call(max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                raise from_call(error, f"{what} at registry {self.address}") from None

        return attempts(attempt)


def _digests(encoder: EncoderRef | None) -> pb.EncoderDigests | None:
    if encoder is None:
        return None
    return pb.EncoderDigests(
        weights_sha256=encoder.weights_sha256, tokenizer_sha256=encoder.tokenizer_sha256
    )


def _upload(manifest: Manifest, payload: bytes, consent: Consent) -> Iterator[pb.PublishRequest]:
    header = pb.PublishHeader(
        name=manifest.ref.name,
        manifest_json=manifest.canonical_json(),
        consent=wire.consent_message(consent),
    )
    yield pb.PublishRequest(header=header)
    for offset in range(0, len(payload), wire.CHUNK_BYTES):
        data = payload[offset : offset + wire.CHUNK_BYTES]
        yield pb.PublishRequest(chunk=pb.Chunk(offset=offset, data=data))


def _download(ref: VersionRef, responses: Iterator[pb.FetchResponse]) -> tuple[Manifest, bytes]:
    first = next(responses, None)
    if first is None or first.WhichOneof("part") != "version":
        raise InvalidManifestError(f"the download of {ref.name} began without its manifest")
    manifest = _manifest_of(ref, first.version)
    payload = bytearray()
    for response in responses:
        if response.chunk.offset != len(payload):
            raise InvalidPayloadError(f"the download of {ref.name} has gaps")
        payload += response.chunk.data
        if len(payload) > manifest.payload_bytes:
            break  # whatever it is, it is not the payload: take no more of it
    if sha256_hex(bytes(payload)) != ref.version:
        raise DigestMismatchError(f"what came for {ref.name} does not have its sha256")
    return manifest, bytes(payload)


def _manifest_of(ref: VersionRef, version: pb.Version) -> Manifest:
    manifest = Manifest.from_json(version.manifest_json)
    if manifest.ref != ref:
        raise InvalidManifestError(f"the registry answered {ref.name} with another version")
    return manifest
