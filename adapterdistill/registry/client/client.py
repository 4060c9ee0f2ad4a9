"""The client that owners, operators and auditors call the registry with.

It takes and returns plain values, and raises domain errors.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2

from adapterdistill.errors import (
    DigestMismatchError,
    RegistryUnavailableError,
    UnauthenticatedError,
    WithdrawnError,
)
from adapterdistill.manifest import EncoderRef, Manifest, VersionRef, sha256_hex
from adapterdistill.registry import wire
from adapterdistill.registry.access import EVERYONE, Consent
from adapterdistill.registry.answers import Evidence, Lineage, Published, Relative, Summary
from adapterdistill.registry.client.connection import Connection
from adapterdistill.registry.client.kept import kept_listing, read_summary
from adapterdistill.registry.client.listing import (
    Chosen,
    digests,
    full_request,
    pages,
    published,
    summary_request,
)
from adapterdistill.registry.client.retry import retried
from adapterdistill.registry.client.signing import check_signed, upload_header
from adapterdistill.registry.client.watch import Event, watched
from adapterdistill.registry.streams import (
    Download,
    Progress,
    manifest_of,
    read_manifest,
    upload,
)
from adapterdistill.registry.trust.statement import read_statement
from adapterdistill.registry.v1 import registry_pb2 as pb

T = TypeVar("T")
_PAUSE_S = 0.2


class RegistryClient:
    """A client of the registry at `address` (HOST:PORT). Thread-safe; do not use it after a fork.

    Each call has `timeout_s` in all. Until then it is repeated while the registry cannot be
    reached or asks the client to wait, so a restart of the registry is no failure; repeating a
    call is harmless. The next call uses credentials that were renewed in their folder.

    Every method raises RegistryUnavailableError when the time is over, UnauthenticatedError as soon
    as it is certain that client and registry do not accept each other's certificates, and otherwise
    the error that the registry raised, with the same type.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 30.0,
        credentials: Path | None = None,
        server_name: str | None = None,
        start_timeout_s: float | None = None,
    ) -> None:
        """Open the connection.

        Args:
            start_timeout_s: of the first call, while the registry refuses connections; None: that
                call, too, has `timeout_s`.
            credentials: a folder (`registry.trust.pem`); without one the client uses plain text.
            server_name: the name in the registry's certificate, if `address` is a forwarder's.

        Raises:
            ConfigError: the folder is unusable.
        """
        self.address = address
        self.timeout_s = timeout_s
        self.kept: Path | None = None
        """A folder that keeps the listings of `summaries`: the next fetches only what changed."""
        self._start_timeout_s = start_timeout_s
        self._connection = Connection(address, credentials, server_name)

    @property
    def _stub(self) -> Any:
        return self._connection.channel().registry

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(
        self,
        manifest: Manifest,
        payload: bytes,
        *,
        consent: Consent = EVERYONE,
        on_progress: Progress | None = None,
    ) -> Manifest:
        """Publish a version, signed if there are credentials; it is on the registry's disk then.

        Publishing it again is harmless, and continues an upload that broke off. `consent` says who
        may learn from the adapter if this is its first version; `set_consent` changes it.

        Raises:
            WithdrawnError: the version, or a teacher of it, was withdrawn.
            DigestMismatchError: `payload` is not the manifest's; nothing was sent.
            InvalidManifestError: also if the version is published with another manifest.
            InvalidPayloadError, EncoderMismatchError: the registry does not admit the payload.
            SignatureError: the registry does not accept the statement, for instance because of the
                clock.
        """
        if sha256_hex(payload) != manifest.version:
            raise DigestMismatchError(f"the payload is not that of {manifest.ref.name}")

        def call(timeout_s: float) -> Manifest:
            deadline = time.monotonic() + timeout_s
            registry, credentials = self._stub, self._connection.credentials
            header = upload_header(manifest, consent, credentials, registry, timeout_s)
            left_s = max(deadline - time.monotonic(), 0.001)
            version = upload(registry, header, payload, left_s, on_progress)
            return read_manifest(version)

        return self._retried("publish", call)

    def fetch(
        self,
        ref: VersionRef,
        *,
        encoder: EncoderRef | None = None,
        on_progress: Progress | None = None,
    ) -> tuple[Manifest, bytes]:
        """Fetch the version's manifest and payload, and verify the payload's sha256.

        After a broken connection it continues from the bytes that it has.

        Raises:
            NotFoundError: there is no such version for this caller.
            EncoderMismatchError: `encoder` is given and the version belongs to another.
            DigestMismatchError: the bytes are not the version's payload.
            SignatureError: with credentials, unless the version's owner signed it.
        """
        download = Download(ref, on_progress, self._verify)

        def call(timeout_s: float) -> tuple[Manifest, bytes]:
            request = pb.FetchRequest(name=ref.name, encoder=digests(encoder), offset=download.size)
            responses = self._stub.Fetch(request, timeout=timeout_s)
            try:
                return download.take(responses)
            finally:
                responses.cancel()  # does nothing to a complete answer

        return self._retried("fetch", call)

    def _verify(self, version: pb.Version) -> None:
        """Check the owner's signature; over plain text there is no authority to check it with."""
        credentials = self._connection.credentials
        if credentials is not None:
            check_signed(version, credentials)

    def get(self, ref: VersionRef) -> Manifest:
        """Return the version's manifest.

        Raises:
            NotFoundError: there is no such version for this caller.
            WithdrawnError: it was withdrawn.
        """
        found = self.describe(ref)
        if found.state == "withdrawn":
            raise WithdrawnError(f"{ref.name} is withdrawn: {found.state_reason}")
        return found.manifest

    def describe(self, ref: VersionRef) -> Published:
        """Describe a version, withdrawn or not; raises NotFoundError like `get`."""
        request = pb.GetVersionRequest(name=ref.name)
        version = self._call("get", self._stub.GetVersion, request).version
        return published(manifest_of(ref, version), version)

    def evidence(self, ref: VersionRef) -> Evidence:
        """Return what a receipt is made from; raises NotFoundError like `get`."""
        request = pb.GetVersionRequest(name=ref.name)
        version = self._call("get", self._stub.GetVersion, request).version
        return Evidence(version.manifest_json, read_statement(version), wire.read_openings(version))

    def list(self, **chosen: Unpack[Chosen]) -> Iterator[Manifest]:
        """List manifests, newest first, as of the time when the first is asked for."""
        return (one.manifest for one in self.describe_all(**chosen))

    def describe_all(self, **chosen: Unpack[Chosen]) -> Iterator[Published]:
        """List versions like `list`, each with its state in the registry."""
        for version in self._listed(full_request(chosen)):
            yield published(read_manifest(version), version)

    def summaries(
        self, *, encoder: EncoderRef, exclude_tenant: str, language: str | None = None
    ) -> Iterator[Summary]:
        """List the newest version of each adapter of others, without manifests, newest first.

        `language` chooses those of one language; None, of every language. With `kept` it may list
        versions that were withdrawn or hidden since an earlier listing (`client.kept`).

        Versions in quarantine, which only operators see, are left out: they cannot be teachers.

        Raises InvalidManifestError if the registry sends a malformed name or fingerprint.
        """
        request = summary_request(encoder, exclude_tenant, language)
        if self.kept is not None:
            yield from kept_listing(self.kept, request, self._page)
            return
        for version in self._listed(request):
            if wire.read_state(version) == "active":
                yield read_summary(version)

    def _listed(self, request: pb.ListVersionsRequest) -> Iterator[pb.Version]:
        return pages(request, self._page)

    def _page(self, request: pb.ListVersionsRequest) -> Any:
        return self._call("list", self._stub.ListVersions, request)

    def resolve_alias(self, tenant: str, adapter: str, alias: str) -> tuple[VersionRef, str]:
        """Return the version that the alias names, and its etag; NotFoundError if there is none."""
        request = pb.GetAliasRequest(name=wire.alias_name(tenant, adapter, alias))
        answer = self._call("resolve_alias", self._stub.GetAlias, request)
        return VersionRef.parse(answer.alias.version_name), answer.alias.etag

    def set_alias(self, ref: VersionRef, alias: str, etag: str | None = None) -> str:
        """Create the alias (etag None) or move it (its current etag); return the new etag.

        An alias that already names `ref` is left unchanged, whatever the etag.

        Raises:
            AliasConflictError: the alias has another etag, or exists and etag is None.
        """
        message = pb.Alias(
            name=wire.alias_name(ref.tenant, ref.adapter, alias),
            version_name=ref.name,
            etag=etag or "",
        )
        request = pb.SetAliasRequest(alias=message, request_id=_idempotency_key())
        return str(self._call("set_alias", self._stub.SetAlias, request).alias.etag)

    def lineage(self, ref: VersionRef) -> Lineage:
        """List the ancestors of `ref` and the versions that learnt from it, at any depth."""
        request = pb.GetLineageRequest(name=ref.name)
        answer = self._call("lineage", self._stub.GetLineage, request)
        ancestors, descendants = (
            tuple(Relative(VersionRef.parse(one.name), one.depth) for one in relatives)
            for relatives in (answer.ancestors, answer.descendants)
        )
        return Lineage(ancestors, descendants, answer.truncated)

    def set_consent(self, tenant: str, adapter: str, consent: Consent) -> None:
        """Let only these tenants see the adapter and learn from it, from now on.

        Raises NotFoundError if nothing of it is published.
        """
        request = pb.SetConsentRequest(
            adapter_name=wire.adapter_name(tenant, adapter),
            consent=wire.consent_message(consent),
            request_id=_idempotency_key(),
        )
        self._call("set_consent", self._stub.SetConsent, request)

    def withdraw(self, ref: VersionRef, reason: str) -> tuple[Relative, ...]:
        """Withdraw a version for ever; return the versions that learnt from it, which are marked.

        Its owner and operators may. The registry shows `reason` to everyone who asks for it.
        """
        request = pb.WithdrawRequest(name=ref.name, reason=reason, request_id=_idempotency_key())
        answer = self._call("withdraw", self._stub.Withdraw, request)
        return tuple(Relative(VersionRef.parse(one.name), one.depth) for one in answer.descendants)

    def release_from_quarantine(self, ref: VersionRef) -> None:
        """Release a version from quarantine; for operators."""
        request = pb.ReleaseVersionRequest(name=ref.name, request_id=_idempotency_key())
        self._call("release_from_quarantine", self._stub.ReleaseVersion, request)

    def renew_certificates(self, request: bytes) -> bytes:
        """Ask for new certificates by a request (`trust.renewal`); return certificates.pem.

        Raises:
            AuthorityOfflineError: the registry's operator has to sign the request.
        """
        asked = pb.RenewCertificatesRequest(request_pem=request)
        answer = self._call("renew_certificates", self._stub.RenewCertificates, asked)
        return bytes(answer.certificates_pem)

    def watch(
        self,
        after_revision: int = 0,
        adapters: Collection[tuple[str, str]] = (),
        *,
        incarnation: str = "",
    ) -> Iterator[Event]:
        """Yield every event after a revision that this caller may see, oldest first, without end.

        `adapters` (tenant, adapter) limits them to these; empty means all. A restart of the
        registry does not end it. If the registry is not of the `incarnation` that the revision came
        from, or has not come so far, it was restored: an event of kind `restored` says so, and all
        events follow from the first. Raises RegistryUnavailableError when the registry cannot be
        reached for `timeout_s`, or this client is closed.
        """
        names = [wire.adapter_name(*adapter) for adapter in adapters]
        return watched(
            self._connection,
            pb.WatchRequest(
                after_revision=after_revision, adapter_names=names, incarnation=incarnation
            ),
            patience_s=self.timeout_s,
            subject=f"watch at registry {self.address}",
        )

    def health(self) -> bool:
        """Return whether the registry answers at once that it is ready."""
        try:
            answer = self._connection.channel().health.Check(
                health_pb2.HealthCheckRequest(), timeout=min(self.timeout_s, 5.0)
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def require_reachable(self, patience_s: float) -> None:
        """Check that something answers, before work begins that ends at the registry.

        A registry that answers slowly has the time of a call. One that cannot be connected to is
        tried again for `patience_s` alone.

        Raises:
            RegistryUnavailableError: nothing listens there, or its host's name is unknown.
            UnauthenticatedError: client and registry do not accept each other's certificates.
        """
        give_up = time.monotonic() + patience_s
        while True:
            try:
                check = self._connection.channel().health.Check
                check(health_pb2.HealthCheckRequest(), timeout=self.timeout_s)
            except grpc.RpcError as error:
                found = self._connection.explain(error, f"registry {self.address}")
                if isinstance(found, UnauthenticatedError):
                    raise found from None
                if not isinstance(found, RegistryUnavailableError):
                    return
                if time.monotonic() + _PAUSE_S > give_up:
                    raise found from None
                time.sleep(_PAUSE_S)
            else:
                return

    def _call(self, what: str, method: Any, request: Any) -> Any:
        return self._retried(what, lambda timeout_s: method(request, timeout=timeout_s))

    def _retried(self, what: str, call: Callable[[float], T]) -> T:
        """Run `call(seconds left)`, and repeat it while that may help."""
        subject = f"{what} at registry {self.address}"
        if self._start_timeout_s is not None:
            self.require_reachable(self._start_timeout_s)
            self._start_timeout_s = None
        return retried(
            call,
            timeout_s=self.timeout_s,
            explain=lambda error: self._connection.explain(error, subject),
        )


def _idempotency_key() -> str:
    """Make a key for one change; its retries carry the same one."""
    return str(uuid.uuid4())
