"""The calls of RegistryService, on an open registry."""

import asyncio
import functools
import logging
import time
from itertools import zip_longest
from typing import Any

from adapterdistill.errors import (
    AuthorityOfflineError,
    EncoderMismatchError,
    InvalidManifestError,
    NotFoundError,
    RegistryUnavailableError,
    StaleRevisionError,
)
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry import wire
from adapterdistill.registry.access import (
    ANYONE,
    Caller,
    Consent,
    check_fetches,
    check_operates,
    check_owns,
    check_withdraws,
)
from adapterdistill.registry.admission.admission import check_manifest, parse_manifest
from adapterdistill.registry.admission.outliers import outlier_reasons
from adapterdistill.registry.commitments import Opening, check_committed
from adapterdistill.registry.index import ledger, lifecycle
from adapterdistill.registry.index.aliases import alias_of, set_alias
from adapterdistill.registry.index.events import is_future, revision_of
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.index.lineage import relatives
from adapterdistill.registry.index.listing import page, summary_page
from adapterdistill.registry.index.peers import find_peers
from adapterdistill.registry.index.schema import Row, SummaryRow
from adapterdistill.registry.index.watching import changes
from adapterdistill.registry.server.handler import answered
from adapterdistill.registry.server.state import OpenRegistry
from adapterdistill.registry.trust.identity import caller_of
from adapterdistill.registry.trust.statement import read_statement
from adapterdistill.registry.upkeep.audit_trail import subject
from adapterdistill.registry.v1 import registry_pb2 as pb

MAX_RELATIVES = 5000  # in each direction; a name takes up to a few hundred bytes of a message
MAX_TOLD = 100  # of a withdrawal's descendants
HEARTBEAT_S = 15
RENEWAL_BYTES = 64 << 10
"""What a renewal counts for: files, a line of the audit log, and the time to sign."""
logger = logging.getLogger(__name__)


class RegistryService(OpenRegistry):
    """The service of registry.proto; gRPC finds its methods by the names of the calls."""

    @answered
    async def Publish(self, _requests: Any, context: Any, caller: Caller) -> pb.PublishResponse:
        first = await self._transfers.read(context)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidManifestError("the first message of an upload must be its header")
        subject.set(first.header.name)
        manifest = parse_manifest(first.header.manifest_json)
        check_owns(caller, manifest.tenant)
        if first.header.name != manifest.ref.name:
            raise InvalidManifestError("the header and its manifest have different names")
        consent = wire.read_first_consent(first.header)
        check_manifest(manifest, self._limits)
        certify, registry = (
            (None, None)
            if self.credentials is None
            else (self.credentials.certify, self.credentials.registry)
        )
        signed = read_statement(first.header)
        statement = ledger.accept(signed, manifest, consent, certify, registry)
        openings = wire.read_openings(first.header)
        if caller != ANYONE:  # over plain text everyone sees everything
            check_committed(manifest)
        row = await self._on_index(self._index.published, manifest, caller, statement, openings)
        # A payload that the disk lost is uploaded again.
        if row is not None:
            self.limited.charge_answer(caller, manifest.payload_bytes)
        if row is None or not await self._transfers.has(manifest):
            self.limited.take_publish(caller)
            self.limited.check_admission(caller)
            stored = functools.partial(self._on_index, self._index.stored, manifest.tenant)
            is_named = functools.partial(
                self._on_index, self._index.names_payload, manifest.version
            )
            async with (
                self._storage.reserve(manifest.tenant, manifest.payload_bytes, stored),
                self._transfers.named_or_removed(manifest.version, is_named),
            ):
                await self._transfers.receive(manifest, caller, context)
                caller_of(
                    context, self.credentials
                )  # the certificate may have been revoked meanwhile
                # The last step: from here on the version exists.
                row = await self._add(manifest, caller, consent, statement, openings)
        return pb.PublishResponse(
            version=await self._on_index(self._answer, self._index, row, caller)
        )

    async def _add(
        self,
        manifest: Manifest,
        caller: Caller,
        consent: Consent,
        statement: bytes | None,
        openings: tuple[Opening, ...],
    ) -> Row:
        """Publish the payload on disk, or quarantine it if it is an outlier."""
        payload = self._store.path(manifest.version)
        found, seconds = await self._transfers.measured(payload, manifest)
        self.limited.charge_admission(caller, seconds)
        peers = await self._on_index(find_peers, self._index.db, manifest)
        reasons = await self._transfers.on_disk(outlier_reasons, found, peers)

        def added() -> Row:
            if self._store.shared and self._index.find(manifest.ref) is None:
                stored = self._index.stored(manifest.tenant)
                self._storage.check(manifest.tenant, manifest.payload_bytes, stored)
                self.limited.check_published(caller, self._index.published_lately(caller))
            return self._index.add(
                manifest,
                caller,
                consent=consent,
                statement=statement,
                statistics_json=found.canonical_json(),
                quarantine="; ".join(reasons),
                openings=openings,
            )

        size = len(manifest.canonical_json()) + len(statement or b"")
        row = await self._change(caller, size, added)
        logger.info("published %s, %d bytes", manifest.ref.name, manifest.payload_bytes)
        if row.state == "quarantined":
            logger.warning("%s is in quarantine: %s", manifest.ref.name, row.state_reason)
        return row

    def _answer(self, index: Index, row: Row, caller: Caller) -> pb.Version:
        """Make the version's message, with the consent if the caller may know it."""
        row = index.shown(row, caller)
        if not (caller.sees_all or caller.name == row.ref.tenant):
            return wire.version_message(row)
        consent = index.consent(row.ref.tenant, row.ref.adapter)
        return wire.version_message(row, consent)

    @answered
    async def Fetch(self, request: pb.FetchRequest, context: Any, caller: Caller) -> None:
        check_fetches(caller)
        ref, index = VersionRef.parse(request.name), self._reading
        row = await self._on_reading(lambda: index.shown(index.get_active(ref, caller), caller))
        wanted = wire.read_encoder(request)
        if wanted not in (None, (row.weights_sha256, row.tokenizer_sha256)):
            raise EncoderMismatchError(
                f"{row.ref.name} belongs to another encoder, {row.weights_sha256[:12]}"
            )
        allowed = functools.partial(
            caller_of, context, self.credentials
        )  # fails once it is revoked
        await self._transfers.send(row, request.offset, caller, context, allowed)

    @answered
    async def QueryUpload(
        self, request: pb.QueryUploadRequest, _context: Any, caller: Caller
    ) -> Any:
        ref = VersionRef.parse(request.name)
        check_owns(caller, ref.tenant)
        try:
            row = await self._on_reading(self._reading.get_active, ref, caller)
        except NotFoundError:
            published = False
        else:
            manifest = Manifest.from_json(row.manifest_json)
            self.limited.charge_answer(caller, manifest.payload_bytes)
            published = await self._transfers.has(manifest)
        offset = 0 if published else self._transfers.staged_bytes(caller, ref.version)
        return pb.QueryUploadResponse(offset=offset, published=published)

    @answered
    async def GetVersion(self, request: pb.GetVersionRequest, _context: Any, caller: Caller) -> Any:
        ref, index = VersionRef.parse(request.name), self._reading
        version = await self._on_reading(
            lambda: self._answer(index, index.get(ref, caller), caller)
        )
        return pb.GetVersionResponse(version=version)

    @answered
    async def ListVersions(
        self, request: pb.ListVersionsRequest, _context: Any, caller: Caller
    ) -> Any:
        chosen = wire.read_filter(request.filter)
        max_rows = wire.read_page_size(request.page_size)
        token = request.page_token
        begun = self._pages.read(token, chosen, caller) if token else None

        summary = request.view == pb.VERSION_VIEW_SUMMARY

        def one_page() -> tuple[list[Row] | list[SummaryRow], bool, int]:
            newest = self._reading.newest_revision()
            before, newest = begun or (newest + 1, newest)
            listed = functools.partial(
                summary_page if summary else functools.partial(page, max_bytes=wire.MAX_PAGE_BYTES),
                self._reading,
                chosen,
                caller,
            )
            return *listed(before=before, newest=newest, max_rows=max_rows), newest

        rows, more, newest = await self._on_reading(one_page)
        next_token = self._pages.token(rows[-1].revision, newest, chosen, caller) if more else ""
        versions = await self._on_reading(
            lambda: [
                wire.summary_message(row)
                if isinstance(row, SummaryRow)
                else wire.version_message(self._reading.shown(row, caller))
                for row in rows
            ]
        )
        return pb.ListVersionsResponse(
            versions=versions, next_page_token=next_token, incarnation=self._incarnation
        )

    @answered
    async def GetAlias(self, request: pb.GetAliasRequest, _context: Any, caller: Caller) -> Any:
        tenant, adapter, alias = wire.parse_alias_name(request.name)
        row = await self._on_reading(alias_of, self._reading, tenant, adapter, alias, caller)
        return pb.GetAliasResponse(alias=wire.alias_message(row))

    @answered
    async def SetAlias(self, request: pb.SetAliasRequest, _context: Any, caller: Caller) -> Any:
        ref = VersionRef.parse(request.alias.version_name)
        check_owns(caller, ref.tenant)
        tenant, adapter, alias = wire.parse_alias_name(request.alias.name)
        if (tenant, adapter) != (ref.tenant, ref.adapter):
            raise InvalidManifestError("an alias names versions of its own adapter only")
        etag = request.alias.etag or None

        def change() -> pb.SetAliasResponse:
            row = set_alias(self._index, ref, alias, etag, caller)
            return pb.SetAliasResponse(alias=wire.alias_message(row))

        return await self._once(caller, request, pb.SetAliasResponse, change)

    @answered
    async def GetLineage(self, request: pb.GetLineageRequest, _context: Any, caller: Caller) -> Any:
        # In several turns, since each may take long.
        row = await self._on_reading(self._reading.get, VersionRef.parse(request.name), caller)
        db = self._reading.db
        up, up_cut = await self._on_reading(relatives, db, row.ref, "ancestors", MAX_RELATIVES)
        down, down_cut = await self._on_reading(
            relatives, db, row.ref, "descendants", MAX_RELATIVES
        )
        return pb.GetLineageResponse(
            ancestors=await self._on_reading(self._visible, self._reading, up, caller),
            descendants=await self._on_reading(self._visible, self._reading, down, caller),
            truncated=up_cut or down_cut,
        )

    def _visible(
        self, index: Index, found: list[tuple[str, int]], caller: Caller
    ) -> list[pb.Relative]:
        visible = index.visible(found, caller)
        return [pb.Relative(name=name, depth=depth) for name, depth in visible]

    @answered
    async def GetAdapter(self, request: pb.GetAdapterRequest, _context: Any, caller: Caller) -> Any:
        tenant, adapter = wire.parse_adapter_name(request.name)
        known = caller.sees_all or caller.name == tenant
        index = self._reading
        newest, consent = await self._on_reading(
            lambda: (
                ledger.newest_version(index.db, tenant, adapter), index.consent(tenant, adapter)
            )
        )  # fmt: skip
        if newest is None or not known:
            raise NotFoundError(f"no adapter {request.name}")
        return pb.GetAdapterResponse(
            consent=wire.consent_message(consent), newest_version_name=newest.name
        )

    @answered
    async def SetConsent(self, request: pb.SetConsentRequest, _context: Any, caller: Caller) -> Any:
        tenant, adapter = wire.parse_adapter_name(request.adapter_name)
        check_owns(caller, tenant)
        consent = wire.read_consent(request.consent)

        def change() -> pb.SetConsentResponse:
            lifecycle.set_consent(self._index, tenant, adapter, consent, caller)
            logger.info("%s changed the consent of %s", caller, request.adapter_name)
            return pb.SetConsentResponse(consent=wire.consent_message(consent))

        return await self._once(caller, request, pb.SetConsentResponse, change)

    @answered
    async def Withdraw(self, request: pb.WithdrawRequest, _context: Any, caller: Caller) -> Any:
        ref = VersionRef.parse(request.name)
        check_withdraws(caller, ref.tenant)
        reason = wire.read_reason(request.reason)

        def change() -> pb.WithdrawResponse:
            row = lifecycle.withdraw(self._index, ref, reason, caller)
            logger.info("%s withdrew %s", caller, ref.name)
            down, _ = relatives(self._index.db, ref, "descendants", MAX_TOLD)
            return pb.WithdrawResponse(
                version=self._answer(self._index, row, caller),
                descendants=self._visible(self._index, down, caller),
            )

        return await self._once(caller, request, pb.WithdrawResponse, change)

    @answered
    async def ReleaseVersion(
        self, request: pb.ReleaseVersionRequest, _context: Any, caller: Caller
    ) -> Any:
        check_operates(caller)
        ref = VersionRef.parse(request.name)

        def change() -> pb.ReleaseVersionResponse:
            row = lifecycle.release_from_quarantine(self._index, ref, caller)
            logger.info("%s released %s", caller, ref.name)
            return pb.ReleaseVersionResponse(version=self._answer(self._index, row, caller))

        return await self._once(caller, request, pb.ReleaseVersionResponse, change)

    @answered
    async def RenewCertificates(
        self, request: pb.RenewCertificatesRequest, _context: Any, caller: Caller
    ) -> Any:
        if self.credentials is None:
            raise AuthorityOfflineError("this registry serves plain text: it has no certificates")
        renewed = await asyncio.to_thread(self._authority.renew, caller, request.request_pem)
        # Before they are handed out: no certificate comes from a renewal without its line.
        await self.audit.renewed(caller, renewed.serials)
        self.limited.charge_change(caller, RENEWAL_BYTES)
        logger.info("renewed the certificates of %s until %s", caller, renewed.expires)
        return pb.RenewCertificatesResponse(certificates_pem=renewed.certificates)

    @answered
    async def Watch(self, request: pb.WatchRequest, context: Any, caller: Caller) -> None:
        told, heartbeat_at = request.after_revision, 0.0
        adapters = {wire.parse_adapter_name(name) for name in request.adapter_names}
        await self._check_revision(request)
        revision = await self._on_watched(revision_of, self._watched.db, told)
        while True:
            # Read these before the events: a later change then ends the wait below.
            changed = self._changed
            newest = await self._on_watched(self._watched.newest_revision)
            events, reached = await self._on_watched(
                changes, self._watched, revision, newest, caller, adapters
            )
            # The certificate may have been revoked while this waited.
            caller_of(context, self.credentials)
            for event, following in zip_longest(events, events[1:]):
                # A watch that ends amid the marks of a withdrawal begins with it again.
                if following is None or following.revision != event.revision:
                    told = event.told
                await self._tell(context, told, wire.event_message(event))
            revision = max(revision, reached)
            if revision < newest:
                continue
            # Neither the heartbeats nor their times tell of changes that the caller may not see.
            if events or time.monotonic() >= heartbeat_at:
                await self._tell(context, told)
                heartbeat_at = time.monotonic() + HEARTBEAT_S
            while time.monotonic() < heartbeat_at:
                if self._stopping:
                    raise RegistryUnavailableError("the registry is stopping: watch again later")
                try:
                    async with asyncio.timeout(1.0):
                        await changed.wait()
                        break
                except TimeoutError:
                    caller_of(context, self.credentials)

    async def _check_revision(self, request: pb.WatchRequest) -> None:
        """Raise StaleRevisionError if the request continues a watch of another incarnation."""
        future = await self._on_watched(is_future, self._watched.db, request.after_revision)
        if future or request.incarnation not in ("", self._incarnation):
            raise StaleRevisionError(
                f"revision {request.after_revision} is not one of this registry, which was restored"
                " or is another one: read all states again, from revision 0"
            )

    async def _tell(self, context: Any, revision: int, event: pb.Event | None = None) -> None:
        await context.write(
            pb.WatchResponse(event=event, revision=revision, incarnation=self._incarnation)
        )
