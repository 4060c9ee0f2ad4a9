"""The owner's side of the registry: plain values in, plain values out, domain errors raised."""

import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2

from adapterdistill.errors import DigestMismatchError, WithdrawnError
from adapterdistill.manifest import EncoderRef, Manifest, VersionRef, sha256_hex
from adapterdistill.registry import wire
from adapterdistill.registry.access import EVERYONE, Consent
from adapterdistill.registry.answers import Lineage, Published, Relative, Summary
from adapterdistill.registry.client.connection import Connection
from adapterdistill.registry.client.retry import retried
from adapterdistill.registry.client.signing import check_signed, upload_header
from adapterdistill.registry.client.watch import Change, watched
from adapterdistill.registry.streams import Download, Progress, manifest_of, upload
from adapterdistill.registry.v1 import registry_pb2 as pb

T = TypeVar("T")
_LIST_PAGE = 200


class Chosen(TypedDict, total=False):
    """Which versions to list; what is left out, or None, selects all."""

    tenant: str | None
    exclude_tenant: str | None
    encoder: EncoderRef | None
    """By its digests."""
    latest_only: bool
    """Only the newest version of each adapter, which is the default."""
    task: str | None
    language: str | None
    labels: Collection[str]
    """Only versions that have all of these."""


class RegistryClient:
    """Calls the registry at `address` (HOST:PORT). Thread-safe; never carry it over a fork.

    Each call has `timeout_s` in all. While the registry cannot be reached, or asks to come later,
    it is tried again until then, so that a restart is ridden out; every call may be repeated
    without harm. Credentials that are renewed in their folder are taken up by the next call.

    Every method raises RegistryUnavailableError when the time is over, UnauthenticatedError as soon
    as it is certain that client and registry do not accept each other's certificates, and otherwise
    the error that the registry raised: its type survives the wire.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 30.0,
        credentials: Path | None = None,
        server_name: str | None = None,
    ) -> None:
        """`credentials` is a folder (`registry.trust.pem`); without one it speaks plain text.
        `server_name` is in the registry's certificate, where `address` is a forwarder's.

        Raises ConfigError if the folder is unusable.
        """
        self.address = address
        self.timeout_s = timeout_s
        self._connection = Connection(address, credentials, server_name)

    @property
    def _stub(self) -> Any:
        return self._connection.channel().registry

    def close(self) -> None:
        self._connection.close()

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
        self,
        manifest: Manifest,
        payload: bytes,
        *,
        consent: Consent = EVERYONE,
        on_progress: Progress | None = None,
    ) -> Manifest:
        """Returns once the version is on the registry's disk. Publishing it again is harmless, and
        goes on where an upload broke off. With credentials, the owner's statement goes along.

        `consent` says who may learn from the adapter, if this is its first version; `set_consent`
        changes it.

        Raises:
            WithdrawnError: the version, or a teacher of it, was taken back.
            DigestMismatchError: `payload` is not the manifest's; nothing was sent.
            InvalidManifestError: also if the version is published with another manifest.
            InvalidPayloadError, EncoderMismatchError: the registry does not admit it.
            SignatureError: it does not accept the statement, because of the clock for instance.
        """
        if sha256_hex(payload) != manifest.version:
            raise DigestMismatchError(f"the payload is not that of {manifest.ref.name}")

        def call(timeout_s: float) -> Manifest:
            deadline = time.monotonic() + timeout_s
            registry, credentials = self._stub, self._connection.credentials
            header = upload_header(manifest, consent, credentials, registry, timeout_s)
            left_s = max(deadline - time.monotonic(), 0.001)
            version = upload(registry, header, payload, left_s, on_progress)
            return Manifest.from_json(version.manifest_json)

        return self._retried("publish", call)

    def fetch(
        self,
        ref: VersionRef,
        *,
        encoder: EncoderRef | None = None,
        on_progress: Progress | None = None,
    ) -> tuple[Manifest, bytes]:
        """The version's manifest and payload, whose sha256 was verified. After a broken connection
        it goes on with what came before.

        Raises:
            NotFoundError: there is no such version for this caller.
            EncoderMismatchError: `encoder` is given and the version belongs to another.
            DigestMismatchError: what came is not the version's payload.
            SignatureError: with credentials, unless the version's owner signed it.
        """
        download = Download(ref, on_progress, self._verify)

        def call(timeout_s: float) -> tuple[Manifest, bytes]:
            request = pb.FetchRequest(
                name=ref.name, encoder=_digests(encoder), offset=download.size
            )
            responses = self._stub.Fetch(request, timeout=timeout_s)
            try:
                return download.take(responses)
            finally:
                responses.cancel()  # of an answer that is complete, this does nothing

        return self._retried("fetch", call)

    def _verify(self, manifest: Manifest, version: pb.Version) -> None:
        """As `check_signed`; over plain text there is nobody to believe but the registry."""
        credentials = self._connection.credentials
        if credentials is not None:
            check_signed(manifest, version, credentials)

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
        return _published(manifest_of(ref, version), version)

    def list(self, **chosen: Unpack[Chosen]) -> Iterator[Manifest]:
        """Versions as the registry has them when the first is asked for, newest first."""
        return (one.manifest for one in self.describe_all(**chosen))

    def describe_all(self, **chosen: Unpack[Chosen]) -> Iterator[Published]:
        """As `list`, with what the registry tells of each version besides."""
        selected = pb.VersionFilter(
            tenant=chosen.get("tenant") or "",
            exclude_tenant=chosen.get("exclude_tenant") or "",
            encoder=_digests(chosen.get("encoder")),
            latest_only=chosen.get("latest_only", True),
            task=chosen.get("task") or "",
            language=chosen.get("language") or "",
            labels=chosen.get("labels", ()),
        )
        request = pb.ListVersionsRequest(filter=selected, page_size=_LIST_PAGE)
        for version in self._listed(request):
            yield _published(Manifest.from_json(version.manifest_json), version)

    def summaries(self, *, encoder: EncoderRef, exclude_tenant: str) -> Iterator[Summary]:
        """The newest version of each adapter of others, as `list` orders them, manifests left out.

        Those in quarantine, which only operators see, are no candidates, and left out too.

        Raises InvalidManifestError where the registry sends a malformed name or signature.
        """
        chosen = pb.VersionFilter(
            exclude_tenant=exclude_tenant, encoder=_digests(encoder), latest_only=True
        )
        request = pb.ListVersionsRequest(
            filter=chosen, page_size=wire.MAX_PAGE, view=pb.VERSION_VIEW_SUMMARY
        )
        for version in self._listed(request):
            if wire.read_state(version) == "active":
                yield Summary(VersionRef.parse(version.name), wire.read_fingerprint(version))

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
        request = pb.SetAliasRequest(alias=message, request_id=_new_id())
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
            adapter_name=wire.adapter_name(tenant, adapter),
            consent=wire.consent_message(consent),
            request_id=_new_id(),
        )
        self._call("set_consent", self._stub.SetConsent, request)

    def withdraw(self, ref: VersionRef, reason: str) -> tuple[Relative, ...]:
        """Takes a version back for ever, its owner or an operator; returns those that learnt from
        it and are marked now. `reason` is shown to whoever asks for the version."""
        request = pb.WithdrawRequest(name=ref.name, reason=reason, request_id=_new_id())
        answer = self._call("withdraw", self._stub.Withdraw, request)
        return tuple(Relative(VersionRef.parse(one.name), one.depth) for one in answer.descendants)

    def release(self, ref: VersionRef) -> None:
        """Lets a version out of quarantine; for operators."""
        request = pb.ReleaseVersionRequest(name=ref.name, request_id=_new_id())
        self._call("release", self._stub.ReleaseVersion, request)

    def watch(
        self, after_revision: int = 0, adapters: Collection[tuple[str, str]] = ()
    ) -> Iterator[Change]:
        """Every change after a revision that this caller may see, oldest first, and then each as it
        comes: of these adapters (tenant, adapter), or of all.

        It survives restarts of the registry. Raises RegistryUnavailableError once that is out of
        reach for `timeout_s`, and whenever this client is closed.
        """
        names = [wire.adapter_name(*adapter) for adapter in adapters]
        return watched(
            self._connection,
            pb.WatchRequest(after_revision=after_revision, adapter_names=names),
            patience_s=self.timeout_s,
            subject=f"watch at registry {self.address}",
        )

    def health(self) -> bool:
        """Whether the registry answers, at once, that it is ready."""
        try:
            answer = self._connection.channel().health.Check(
                health_pb2.HealthCheckRequest(), timeout=min(self.timeout_s, 5.0)
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(self, what: str, method: Any, request: Any) -> Any:
        return self._retried(what, lambda timeout_s: method(request, timeout=timeout_s))

    def _retried(self, what: str, call: Callable[[float], T]) -> T:
        """`call(seconds left)`, again while a later one may succeed and time is left."""
        subject = f"{what} at registry {self.address}"
        return retried(
            call,
            timeout_s=self.timeout_s,
            explain=lambda error: self._connection.explain(error, subject),
        )


def _digests(encoder: EncoderRef | None) -> pb.EncoderDigests | None:
    if encoder is None:
        return None
    return pb.EncoderDigests(
        weights_sha256=encoder.weights_sha256, tokenizer_sha256=encoder.tokenizer_sha256
    )


def _new_id() -> str:
    """Of one change, whose retries all bear it."""
    return str(uuid.uuid4())


def _published(manifest: Manifest, version: pb.Version) -> Published:
    return Published(
        manifest=manifest,
        state=wire.read_state(version),
        state_reason=version.state_reason,
        withdrawn_teacher=version.withdrawn_teacher,
        consent=wire.read_consent(version.consent) if version.HasField("consent") else None,
    )
