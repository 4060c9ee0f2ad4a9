"""The calls of RegistryService, on a store and an index.

Nothing here blocks the event loop: the index runs on one thread of its own, file work on a few
others.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from adapterdistill.errors import (
    AdapterDistillError,
    DeadlineRequiredError,
    EncoderMismatchError,
    InvalidManifestError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
)
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry import ledger, standing, wire
from adapterdistill.registry.access import (
    Caller,
    Consent,
    check_fetches,
    check_operates,
    check_owns,
    check_withdraws,
)
from adapterdistill.registry.admission import Limits, check_manifest, parse_manifest
from adapterdistill.registry.aliases import alias_of, set_alias
from adapterdistill.registry.audit_trail import AuditTrail, subject
from adapterdistill.registry.changes import after
from adapterdistill.registry.credentials import ServerCredentials
from adapterdistill.registry.identity import caller_of
from adapterdistill.registry.index import Index
from adapterdistill.registry.listing import page
from adapterdistill.registry.malformed import checked
from adapterdistill.registry.population import judge, others
from adapterdistill.registry.quotas import CallLimits, Quotas, StorageQuota
from adapterdistill.registry.requests import Answer, once
from adapterdistill.registry.schema import Row
from adapterdistill.registry.statistics import measure
from adapterdistill.registry.status import to_status
from adapterdistill.registry.store import BlobStore
from adapterdistill.registry.transfers import Transfers
from adapterdistill.registry.v1 import registry_pb2 as pb

MAX_RELATIVES = 5000  # a direction; a few hundred bytes each, within one message
HEARTBEAT_S = 15
DEFAULT_QUOTAS = Quotas()
logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[["RegistryService", Any, Any, Caller], Awaitable[T]]
# The calls that change something, all of which the audit log tells of, and what they are about.
_SUBJECTS: dict[str, Callable[[Any], str]] = {
    "Publish": lambda _requests: "",  # its header says
    "SetAlias": lambda request: request.alias.name,
    "SetConsent": lambda request: request.adapter_name,
    "Withdraw": lambda request: request.name,
    "ReleaseVersion": lambda request: request.name,
}


def _answered(call: Call[T]) -> Callable[["RegistryService", Any, Any], Awaitable[T]]:
    """Tells the call who calls, and turns errors into statuses; what we did not foresee is logged
    and not shown."""

    @functools.wraps(call)
    async def answer(self: "RegistryService", request: Any, context: Any) -> T:
        refusal: AdapterDistillError
        caller: Caller | None = None
        writes = call.__name__ in _SUBJECTS
        try:
            caller = caller_of(context, self._credentials)
            with self._limited.hold(caller):
                _check_deadline(call.__name__, context)
                if writes:
                    subject.set(_SUBJECTS[call.__name__](checked(request)))
                response = await call(self, checked(request), context, caller)
                if writes:
                    await self._audit.settle()
                return response
        except AdapterDistillError as error:
            refusal = error
        except Exception:
            logger.exception("%s failed", call.__name__)
            refusal = RegistryError("the registry failed; its log has the cause")
        if writes:
            try:
                await self._audit.refused(call.__name__, caller, refusal)
            except RegistryError as error:
                refusal = error
        code, message, trailer = to_status(refusal)
        logger.info(
            "%s of %s refused: %s %s",
            call.__name__,
            caller or "nobody known",
            code.name,
            refusal.reason,
        )
        await context.abort(code, message, trailer)
        raise AssertionError("abort returned")

    return answer


def _check_deadline(name: str, context: Any) -> None:
    """A call without one could hold what it uses for ever."""
    if name != "Watch" and context.time_remaining() is None:
        raise DeadlineRequiredError(f"{name} needs a deadline, and came without")


class RegistryService:
    """Implements the service of registry.proto; open from construction to `close`.

    Its methods bear the names of the calls, which gRPC looks up.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits,
        quotas: Quotas = DEFAULT_QUOTAS,
        credentials: ServerCredentials | None = None,
        *,
        idle_timeout_s: float = 30.0,
    ) -> None:
        """Callers are who their certificates say, or without `credentials` anyone.

        `idle_timeout_s` is how long a transfer may wait for its client's next step.
        """
        self._limits = limits
        self._credentials = credentials
        self._limited = CallLimits(quotas)
        self._storage = StorageQuota(quotas)
        self._store = BlobStore(root, quotas)
        try:
            self._index = Index(
                root / "index.sqlite3", refuse_descendants=limits.refuse_descendants
            )
        except BaseException:
            self._store.close()
            raise
        try:
            self._audit = AuditTrail(root)
        except BaseException:
            self._index.close()
            self._store.close()
            raise
        swept = self._store.sweep(self._index.payloads())
        if swept:
            logger.info("removed %d files of uploads that nobody goes on with", swept)
        self._pages = wire.PageTokens(self._index.secret("page_token"))
        self._index_thread = ThreadPoolExecutor(1, "registry-index")
        self._transfers = Transfers(self._store, quotas, idle_timeout_s=idle_timeout_s)
        self._changed = asyncio.Event()
        self._stopping = False

    def close(self) -> None:
        """Waits for work in progress; the folder may then be opened again."""
        self._transfers.close()
        self._index_thread.shutdown()
        self._audit.close()
        self._index.close()
        self._store.close()

    def end_watches(self) -> None:
        """Ends the calls that would never end by themselves."""
        self._stopping = True
        self._tell_watchers()

    async def check(self) -> None:
        """Raises whatever stands in the way of serving calls."""
        await self._on_index(self._index.check)
        self._audit.check()
        await self._transfers.on_disk(self._store.check_writable)

    async def _on_index(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._index_thread, work)

    async def _change(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `_on_index`, for what changes the index: watchers hear of it."""
        result = await self._on_index(call, *args, **kwargs)
        self._tell_watchers()
        return result

    async def _once(
        self,
        caller: Caller,
        request: Any,
        answer: type[Answer],
        change: Callable[[], Answer],
    ) -> Answer:
        """As `_change`; a request that the caller repeats is answered as the first time."""
        return await self._change(once, self._index.db, caller, request, answer, change)

    def _tell_watchers(self) -> None:
        told, self._changed = self._changed, asyncio.Event()
        told.set()

    @_answered
    async def Publish(  # noqa: N802
        self, _requests: Any, context: Any, caller: Caller
    ) -> pb.PublishResponse:
        first = await self._transfers.read(context)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidManifestError("the first message of an upload must be its header")
        subject.set(first.header.name)
        manifest = parse_manifest(first.header.manifest_json)
        check_owns(caller, manifest.tenant)
        if first.header.name != manifest.ref.name:
            raise InvalidManifestError("the header's name is not that of its manifest")
        consent = wire.read_first_consent(first.header)
        check_manifest(manifest, self._limits)
        certify = None if self._credentials is None else self._credentials.certify
        statement = ledger.accept(wire.read_statement(first.header), manifest, consent, certify)
        row = await self._on_index(self._index.published, manifest, caller, statement)
        # A payload that the disk lost is taken again.
        if row is None or not await self._transfers.has(manifest):
            self._limited.take_publish(caller)
            stored = functools.partial(self._on_index, self._index.stored, manifest.tenant)
            is_named = functools.partial(
                self._on_index, self._index.names_payload, manifest.version
            )
            async with (
                self._storage.reserve(manifest.tenant, manifest.payload_bytes, stored),
                self._transfers.named_or_removed(manifest.version, is_named),
            ):
                await self._transfers.receive(manifest, caller, context)
                caller_of(context, self._credentials)  # uploads last: it may be revoked by now
                # Last: the version exists from here on.
                row = await self._add(manifest, caller, consent, statement)
        return pb.PublishResponse(version=await self._on_index(self._told, row, caller))

    async def _add(
        self, manifest: Manifest, caller: Caller, consent: Consent, statement: bytes | None
    ) -> Row:
        """Publishes what is on disk, or quarantines it if it is unlike the others."""
        payload = self._store.path(manifest.version)
        found = await self._transfers.on_disk(measure, payload, manifest)
        reasons = judge(found, await self._on_index(others, self._index.db, manifest))
        row = await self._change(
            self._index.add,
            manifest,
            caller,
            consent=consent,
            statement=statement,
            statistics_json=found.canonical_json(),
            quarantine="; ".join(reasons),
        )
        logger.info("published %s, %d bytes", manifest.ref.name, manifest.payload_bytes)
        if row.state == "quarantined":
            logger.warning("%s is in quarantine: %s", manifest.ref.name, row.state_reason)
        return row

    def _told(self, row: Row, caller: Caller) -> pb.Version:
        """The version as the caller may know it."""
        if not (caller.sees_all or caller.name == row.ref.tenant):
            return wire.version_message(row)
        consent = self._index.consent(row.ref.tenant, row.ref.adapter)
        return wire.version_message(row, consent)

    @_answered
    async def Fetch(  # noqa: N802
        self, request: pb.FetchRequest, context: Any, caller: Caller
    ) -> None:
        check_fetches(caller)
        row = await self._on_index(self._index.get_active, VersionRef.parse(request.name), caller)
        wanted = wire.read_encoder(request)
        if wanted not in (None, (row.weights_sha256, row.tokenizer_sha256)):
            raise EncoderMismatchError(
                f"{row.ref.name} belongs to another encoder, {row.weights_sha256[:12]}"
            )
        await self._transfers.send(row, request.offset, caller, context)

    @_answered
    async def QueryUpload(  # noqa: N802
        self, request: pb.QueryUploadRequest, _context: Any, caller: Caller
    ) -> Any:
        ref = VersionRef.parse(request.name)
        check_owns(caller, ref.tenant)
        try:
            row = await self._on_index(self._index.get_active, ref, caller)
        except NotFoundError:
            published = False
        else:
            published = await self._transfers.has(Manifest.from_json(row.manifest_json))
        offset = 0 if published else self._transfers.staged_bytes(caller, ref.version)
        return pb.QueryUploadResponse(offset=offset, published=published)

    @_answered
    async def GetVersion(  # noqa: N802
        self, request: pb.GetVersionRequest, _context: Any, caller: Caller
    ) -> Any:
        row = await self._on_index(self._index.get, VersionRef.parse(request.name), caller)
        return pb.GetVersionResponse(version=await self._on_index(self._told, row, caller))

    @_answered
    async def ListVersions(  # noqa: N802
        self, request: pb.ListVersionsRequest, _context: Any, caller: Caller
    ) -> Any:
        chosen = wire.read_filter(request.filter)
        max_rows = wire.read_page_size(request.page_size)
        if request.page_token:
            before, newest = self._pages.read(request.page_token, chosen, caller)
        else:
            newest = await self._on_index(self._index.newest_revision)
            before = newest + 1
        rows, more = await self._on_index(
            page,
            self._index,
            chosen,
            caller,
            before=before,
            newest=newest,
            max_rows=max_rows,
            max_bytes=wire.MAX_PAGE_BYTES,
        )
        summary = request.view == pb.VERSION_VIEW_SUMMARY
        message = wire.summary_message if summary else wire.version_message
        following = self._pages.token(rows[-1].revision, newest, chosen, caller) if more else ""
        return pb.ListVersionsResponse(
            versions=[message(row) for row in rows], next_page_token=following
        )

    @_answered
    async def GetAlias(  # noqa: N802
        self, request: pb.GetAliasRequest, _context: Any, caller: Caller
    ) -> Any:
        tenant, adapter, alias = wire.parse_alias_name(request.name)
        row = await self._on_index(alias_of, self._index, tenant, adapter, alias, caller)
        return pb.GetAliasResponse(alias=wire.alias_message(row))

    @_answered
    async def SetAlias(  # noqa: N802
        self, request: pb.SetAliasRequest, _context: Any, caller: Caller
    ) -> Any:
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

    @_answered
    async def GetLineage(  # noqa: N802
        self, request: pb.GetLineageRequest, _context: Any, caller: Caller
    ) -> Any:
        row = await self._on_index(self._index.get, VersionRef.parse(request.name), caller)
        up, up_cut = await self._on_index(
            self._index.relatives, row.ref, "ancestors", MAX_RELATIVES
        )
        down, down_cut = await self._on_index(
            self._index.relatives, row.ref, "descendants", MAX_RELATIVES
        )
        return pb.GetLineageResponse(
            ancestors=await self._on_index(self._relatives, up, caller),
            descendants=await self._on_index(self._relatives, down, caller),
            truncated=up_cut or down_cut,
        )

    def _relatives(self, relatives: list[tuple[str, int]], caller: Caller) -> list[pb.Relative]:
        visible = self._index.visible(relatives, caller)
        return [pb.Relative(name=name, depth=depth) for name, depth in visible]

    @_answered
    async def GetAdapter(  # noqa: N802
        self, request: pb.GetAdapterRequest, _context: Any, caller: Caller
    ) -> Any:
        tenant, adapter = wire.parse_adapter_name(request.name)
        known = caller.sees_all or caller.name == tenant
        newest = await self._on_index(ledger.newest_version, self._index.db, tenant, adapter)
        if newest is None or not known:
            raise NotFoundError(f"no adapter {request.name}")
        consent = await self._on_index(self._index.consent, tenant, adapter)
        return pb.GetAdapterResponse(
            consent=wire.consent_message(consent), newest_version_name=newest.name
        )

    @_answered
    async def SetConsent(  # noqa: N802
        self, request: pb.SetConsentRequest, _context: Any, caller: Caller
    ) -> Any:
        tenant, adapter = wire.parse_adapter_name(request.adapter_name)
        check_owns(caller, tenant)
        consent = wire.read_consent(request.consent)

        def change() -> pb.SetConsentResponse:
            standing.set_consent(self._index, tenant, adapter, consent, caller)
            logger.info("%s changed the consent of %s", caller, request.adapter_name)
            return pb.SetConsentResponse(consent=wire.consent_message(consent))

        return await self._once(caller, request, pb.SetConsentResponse, change)

    @_answered
    async def Withdraw(  # noqa: N802
        self, request: pb.WithdrawRequest, _context: Any, caller: Caller
    ) -> Any:
        ref = VersionRef.parse(request.name)
        check_withdraws(caller, ref.tenant)
        reason = wire.read_reason(request.reason)

        def change() -> pb.WithdrawResponse:
            row = standing.withdraw(self._index, ref, reason, caller)
            logger.info("%s withdrew %s", caller, ref.name)
            down, _ = self._index.relatives(ref, "descendants", MAX_RELATIVES)
            return pb.WithdrawResponse(
                version=self._told(row, caller), descendants=self._relatives(down, caller)
            )

        return await self._once(caller, request, pb.WithdrawResponse, change)

    @_answered
    async def ReleaseVersion(  # noqa: N802
        self, request: pb.ReleaseVersionRequest, _context: Any, caller: Caller
    ) -> Any:
        check_operates(caller)
        ref = VersionRef.parse(request.name)

        def change() -> pb.ReleaseVersionResponse:
            row = standing.release(self._index, ref, caller)
            logger.info("%s released %s", caller, ref.name)
            return pb.ReleaseVersionResponse(version=self._told(row, caller))

        return await self._once(caller, request, pb.ReleaseVersionResponse, change)

    @_answered
    async def Watch(  # noqa: N802
        self, request: pb.WatchRequest, context: Any, caller: Caller
    ) -> None:
        revision = request.after_revision
        adapters = [wire.parse_adapter_name(name) for name in request.adapter_names]
        while True:
            # Both before the look: what changes after it ends the wait below.
            changed = self._changed
            newest = await self._on_index(self._index.newest_revision)
            events = await self._on_index(
                after, self._index.db, revision, caller, adapters=adapters
            )
            for event in events:
                revision = event.revision
                message = wire.event_message(event)
                await context.write(pb.WatchResponse(event=message, revision=revision))
            if events:
                continue
            revision = max(revision, newest)
            await context.write(pb.WatchResponse(revision=revision))
            if self._stopping:
                raise RegistryUnavailableError("the registry is stopping: watch again later")
            for _ in range(HEARTBEAT_S):
                caller_of(context, self._credentials)  # it may be revoked by now
                try:
                    async with asyncio.timeout(1.0):
                        await changed.wait()
                        break
                except TimeoutError:
                    continue
