"""A push: a tenant's release and bundles on their way into a deployment's store, over HTTP.

    PUT /v1/tenants/TENANT/release                  the release, and its bundles' files (`Offer`)
        answers which blobs the store lacks, and how many bytes of each came before
    PUT /v1/tenants/TENANT/blobs/SHA256?offset=N    a chunk of a blob, from there on
        answers how many bytes are there now
    PUT /v1/tenants/TENANT/release                  again: nothing is lacking, so it is verified
                                                    and made live

Each step may be repeated, so a push goes on where the last one ended, on any replica. What arrives
lies in STORE/pushing until it is whole; the release is replaced last. A torn push, or one that is
refused, leaves what was served as it was.
"""

from collections.abc import Callable

from pydantic import Field, ValidationError

from adapterdistill.errors import PushRefusedError, ServingError
from adapterdistill.manifest import BundleId, Record, Sha256, sha256_hex
from adapterdistill.store.bundle import Contents, blob_key, contents_key, open_bundle, remove_bundle
from adapterdistill.store.objects import Objects
from adapterdistill.store.release import Release, bundles_of, write_release
from adapterdistill.store.sealing import key_id

CHUNK_BYTES = 1 << 20


class Offer(Record):
    """A release, and the contents of the bundles that it names."""

    release: Release
    bundles: dict[BundleId, Contents]

    @property
    def sizes(self) -> dict[str, int]:
        """Digest to size of each blob, in bytes."""
        files = [blob for one in self.bundles.values() for blob in one.files.values()]
        return {blob.sha256: blob.size for blob in files}

    @property
    def is_whole(self) -> bool:
        """Whether it has the contents of exactly the bundles of the release."""
        return self.bundles.keys() == named_in(self.release)


class Lacking(Record):
    """The answer to an offer."""

    have: dict[Sha256, int]
    """Digest of each blob that the store lacks to the bytes of it that came; empty: it is live."""


class Taken(Record):
    """The answer to a chunk."""

    have: int = Field(ge=0)
    """Bytes of the blob that are there; all: it is in the store."""


def named_in(release: Release) -> set[str]:
    """The bundles that a release names, but those that were rolled back."""
    tried = None if release.candidate is None else release.candidate.bundle
    return {one for one in (release.bundle, release.before, tried) if one is not None}


class Receiver:
    """The deployment's side of pushes. Thread-safe, and several may share a store.

    max_bytes: most that the bundles of a tenant's push may hold together.
    key_for: gives a tenant's key, with which its encrypted bundles are verified.
    """

    def __init__(
        self, store: Objects, *, max_bytes: int, key_for: Callable[[str], bytes | None]
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._key_for = key_for

    def offer(self, tenant: str, body: bytes) -> Lacking:
        """Answer an offer; if nothing is lacking, verify the bundles and replace the release.

        Raises:
            PushRefusedError: it is malformed, of another tenant or too large, or a bundle is
                damaged or encrypted with a key that is not here. Nothing has changed.
            StoreError: the store is out of reach.
        """
        try:
            offer = Offer.model_validate_json(body)
        except ValidationError:
            raise PushRefusedError("the offer is malformed: push with the same release") from None
        self._check(tenant, offer)
        there = {one.key: one.size for one in self._store.list(f"blobs/{tenant}")}
        sizes = offer.sizes
        lacking = {sha for sha in sizes if there.get(blob_key(tenant, sha)) != sizes[sha]}
        before = self._open_offer(tenant)
        for sha in (before.sizes if before else {}).keys() - lacking:
            self._drop_chunks(tenant, sha)
        if lacking:
            if before != offer:
                self._store.write(_offer_key(tenant), offer.canonical_json())
            return Lacking(have={sha: self._have(tenant, sha) for sha in lacking})
        self._put_live(tenant, offer)
        return Lacking(have={})

    def take(self, tenant: str, sha256: str, offset: int, chunk: bytes) -> Taken:
        """Take a chunk; one that begins elsewhere than the last one ended is left out.

        Raises:
            PushRefusedError: nothing offered it, it is longer than offered, or the whole blob does
                not have its digest; then it is sent again from its beginning.
            StoreError: the store is out of reach.
        """
        offer = self._open_offer(tenant)
        size = None if offer is None else offer.sizes.get(sha256)
        if size is None:
            raise PushRefusedError("no open offer has this blob: push again from the beginning")
        have = self._have(tenant, sha256)
        if offset != have:
            return Taken(have=have)
        if len(chunk) > CHUNK_BYTES or have + len(chunk) > size:
            raise PushRefusedError(f"the chunk is too large: the blob has {size} bytes")
        if have + len(chunk) < size:
            if chunk:
                self._store.write(f"{_chunks(tenant, sha256)}/{offset:012d}", chunk)
            return Taken(have=have + len(chunk))
        content = b"".join([*self._chunks_before(tenant, sha256), chunk])
        if sha256_hex(content) != sha256:
            self._drop_chunks(tenant, sha256)
            raise PushRefusedError("a blob did not arrive as it was offered: push again")
        self._store.write(blob_key(tenant, sha256), content)
        self._drop_chunks(tenant, sha256)
        return Taken(have=size)

    def _check(self, tenant: str, offer: Offer) -> None:
        size = sum(offer.sizes.values())
        if offer.release.tenant != tenant:
            raise PushRefusedError("the release is of another tenant")
        if not offer.is_whole:
            raise PushRefusedError("the offer has not exactly the bundles that its release names")
        if size > self._max_bytes:
            raise PushRefusedError(
                f"the bundles have {size / 2**20:.1f} MiB, and this deployment takes "
                f"{self._max_bytes / 2**20:g} MiB of a tenant (max_push_mib)"
            )
        key = self._key_for(tenant)
        needed = {one.key for one in offer.bundles.values() if one.key is not None}
        wrong = needed - ({key_id(key)} if key is not None else set())
        if wrong:
            raise PushRefusedError(
                f"a bundle is encrypted with key {min(wrong)}, which this deployment has not got: "
                "its operator puts the key's file into the folder of --keys"
            )

    def _put_live(self, tenant: str, offer: Offer) -> None:
        key = self._key_for(tenant)
        for bundle_id, contents in offer.bundles.items():
            try:
                open_bundle(self._store, tenant, bundle_id, contents, key=key)
            except ServingError as error:
                self._drop_damaged(tenant, contents)
                raise PushRefusedError(str(error)) from None
        for bundle_id, contents in offer.bundles.items():
            self._store.write(contents_key(tenant, bundle_id), contents.canonical_json())
        write_release(self._store, offer.release)
        self._store.delete(_offer_key(tenant))
        for bundle_id, _ in bundles_of(self._store, tenant):
            if bundle_id not in offer.bundles:
                remove_bundle(self._store, tenant, bundle_id)

    def _drop_damaged(self, tenant: str, contents: Contents) -> None:
        """Remove blobs that the disk has changed, so that the next push sends them again."""
        for blob in contents.files.values():
            content = self._store.read(blob_key(tenant, blob.sha256))
            if content is not None and sha256_hex(content) != blob.sha256:
                self._store.delete(blob_key(tenant, blob.sha256))

    def _open_offer(self, tenant: str) -> Offer | None:
        found = self._store.read(_offer_key(tenant))
        try:
            return None if found is None else Offer.model_validate_json(found)
        except ValidationError:  # of another release of this program
            return None

    def _have(self, tenant: str, sha256: str) -> int:
        """Bytes of a blob that came without a gap."""
        have = 0
        for one in sorted(self._store.list(_chunks(tenant, sha256)), key=lambda one: one.key):
            if int(one.key.rpartition("/")[2]) != have:
                break
            have += one.size
        return have

    def _chunks_before(self, tenant: str, sha256: str) -> list[bytes]:
        keys = sorted(one.key for one in self._store.list(_chunks(tenant, sha256)))
        return [self._store.read(key) or b"" for key in keys]

    def _drop_chunks(self, tenant: str, sha256: str) -> None:
        for one in [*self._store.list(_chunks(tenant, sha256))]:
            self._store.delete(one.key)


def _offer_key(tenant: str) -> str:
    return f"pushing/{tenant}.json"


def _chunks(tenant: str, sha256: str) -> str:
    return f"pushing/{tenant}/{sha256}"
