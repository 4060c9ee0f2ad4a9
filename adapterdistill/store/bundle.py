"""The serving bundle, which a tenant's owner gives to the tenant's own serving deployment.

    STORE/live/TENANT.json              which bundle is live: `adapterdistill.store.release`
    STORE/bundles/TENANT/BUNDLE_ID.json the digest and size of each of its files
    STORE/blobs/TENANT/SHA256           a file, named by its digest:
        bundle.json                     manifest, threshold, files' digests
        adapter.safetensors             the registry's payload, byte for byte
        faqs.parquet                    faq_id, question, answer
        index.safetensors               vectors, faq_of_vector
        form.safetensors                the variant that is served instead of the adapter, if any
        scorer.safetensors              what ranks the FAQs instead of the index, if anything does
    STORE/changed                       a new random text after each change of STORE/live

A store is a folder or an object store (`objects`). Bundles share the files that they have in
common, so an update moves only what changed. Blobs are written first and the release last, so
readers see the old release or the new one, whole, and no lock is needed.

BUNDLE_ID is VERSION-DIGEST12: the adapter's version, then the first 12 hex digits of the sha256 of
`bundle.json`, which holds the digests of the other files. So the id proves all of the content,
bundles are immutable, and writing the same bundle twice is harmless. A bundle holds the tenant's
FAQs, so it is private to the tenant and never goes to the registry. With a key of the tenant the
blobs are encrypted (`adapterdistill.store.sealing`), and their names are the digests of what is
stored.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from adapterdistill.confidence import Calibration
from adapterdistill.data.schema import Faq
from adapterdistill.errors import ServingError
from adapterdistill.manifest import (
    BUNDLE_ID_PATTERN,
    GoldenVectors,
    Manifest,
    Record,
    Sha256,
    VariantKind,
    is_name,
    sha256_hex,
)
from adapterdistill.store.objects import Objects, open_objects
from adapterdistill.store.sealing import key_id, open_sealed, read_key, seal

Place = str | Path | Objects
"""A store: a folder, a URI, or what `open_objects` made of it."""
NEVER_ABSTAIN = -1.0
_BUNDLE_ID = re.compile(BUNDLE_ID_PATTERN[1:-1])
_FAQ_COLUMNS = pa.schema(
    [("faq_id", pa.string()), ("question", pa.string()), ("answer", pa.string())]
)
_ADAPTER, _FAQS, _INDEX, _VARIANT, _SCORER, _HEAD = (
    "adapter.safetensors",
    "faqs.parquet",
    "index.safetensors",
    "form.safetensors",
    "scorer.safetensors",
    "bundle.json",
)


class ProvenVariant(Record):
    """The kind of a served variant, and how far it moves the probe sentences."""

    kind: VariantKind
    golden: GoldenVectors


@dataclass(frozen=True)
class BundledVariant:
    """A cheaper variant of the adapter, which is served instead of it."""

    proven: ProvenVariant
    payload: bytes


@dataclass(frozen=True)
class Bundle:
    """One adapter version with the tenant's FAQ index, embedded by what is served.

    vectors: [entries, embedding_size] float32, unit length. An FAQ's score for a query is the
        largest cosine over its vectors; a centroid index has one vector an FAQ.
    faq_of_vector: [entries] int64, the position in `faqs`; every FAQ has at least one vector.
    threshold: queries whose top score is below it get no answer; NEVER_ABSTAIN answers all.
    scorer: `adapterdistill.evaluation.scorer.pack_scorer`; its scores replace the cosines, also for
        `threshold` and `calibration`. None: FAQs are ranked by cosine.
    """

    manifest: Manifest
    adapter_payload: bytes
    faqs: list[Faq]
    vectors: Tensor
    faq_of_vector: Tensor
    threshold: float = NEVER_ABSTAIN
    variant: BundledVariant | None = None
    calibration: Calibration | None = None
    scorer: bytes | None = None


class _Head(Record):
    """bundle.json"""

    schema_version: int = Field(default=1, ge=1, le=1)
    manifest: Manifest
    threshold: float = Field(ge=-1, le=1)
    files: dict[str, Sha256]
    # Left out if there is none, so that ids of bundles without one stay as they were.
    variant: ProvenVariant | None = Field(
        default=None, alias="form", exclude_if=lambda value: value is None
    )
    calibration: Calibration | None = Field(default=None, exclude_if=lambda value: value is None)
    # Version of the scorer's formula. A server that does not know it refuses the bundle, whose
    # threshold it would apply to other scores.
    scorer: Literal[1] | None = Field(default=None, exclude_if=lambda value: value is None)


class Blob(Record):
    """A file of a bundle, as it is stored."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class Contents(Record):
    """bundles/TENANT/BUNDLE_ID.json"""

    schema_version: int = Field(default=1, ge=1, le=1)
    files: dict[str, Blob]
    key: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Id of the key that the blobs are encrypted with; None: they are not."""


def write_bundle(store: Place, bundle: Bundle, *, key: bytes | None = None) -> str:
    """Write the whole bundle or nothing; return its id. Idempotent.

    Args:
        key: the tenant's key; with it the files are encrypted.

    Raises:
        ServingError: the parts contradict each other.
        StoreError: the store cannot be written.
    """
    _check(bundle, sha256_hex(bundle.adapter_payload))
    contents = {
        _ADAPTER: bundle.adapter_payload,
        _FAQS: _faqs_to_bytes(bundle.faqs),
        _INDEX: safetensors.torch.save(
            {
                "vectors": bundle.vectors.detach().contiguous(),
                "faq_of_vector": bundle.faq_of_vector.contiguous(),
            }
        ),
    }
    if bundle.variant is not None:
        contents[_VARIANT] = bundle.variant.payload
    if bundle.scorer is not None:
        contents[_SCORER] = bundle.scorer
    head = _Head(
        manifest=bundle.manifest,
        threshold=bundle.threshold,
        files={name: sha256_hex(content) for name, content in contents.items()},
        variant=None if bundle.variant is None else bundle.variant.proven,
        calibration=bundle.calibration,
        scorer=None if bundle.scorer is None else 1,
    ).canonical_json()
    contents[_HEAD] = head
    tenant, objects = bundle.manifest.tenant, open_objects(store)
    bundle_id = f"{bundle.manifest.version}-{sha256_hex(head)[:12]}"
    blobs = {}
    for name, content in contents.items():
        stored = content if key is None else seal(key, content, about=f"{tenant}/{name}")
        blobs[name] = Blob(sha256=sha256_hex(stored), size=len(stored))
        _put(objects, blob_key(tenant, blobs[name].sha256), stored)
    record = Contents(files=blobs, key=None if key is None else key_id(key)).canonical_json()
    before = objects.read(contents_key(tenant, bundle_id))
    _put(objects, contents_key(tenant, bundle_id), record)
    if before not in (None, record):  # with another key: what it replaces may be in the clear
        _remove_unnamed(objects, tenant)
    return bundle_id


def key_of(file: str | None) -> bytes | None:
    """Read the key file that a run names, if it names one. Raises ConfigError."""
    return None if file is None else read_key(Path(file))


def _put(objects: Objects, key: str, content: bytes) -> None:
    if objects.read(key) != content:  # absent, or damaged
        objects.write(key, content)


def blob_key(tenant: str, sha256: str) -> str:
    """The key of a tenant's blob in a store."""
    return f"blobs/{tenant}/{sha256}"


def contents_key(tenant: str, bundle_id: str) -> str:
    """The key of a bundle's contents in a store. Raises ServingError: not the name of one."""
    if not is_name(tenant):
        raise ServingError("not a tenant name")
    if _BUNDLE_ID.fullmatch(bundle_id) is None:
        raise ServingError(f"tenant {tenant}: not a bundle id: expected SHA256-DIGEST12")
    return f"bundles/{tenant}/{bundle_id}.json"


def read_contents(store: Place, tenant: str, bundle_id: str) -> Contents:
    """Read which blobs make up a bundle. Raises ServingError: absent or malformed."""
    found = open_objects(store).read(contents_key(tenant, bundle_id))
    if found is None:
        raise ServingError(f"{_subject(tenant, bundle_id)} cannot be read: there is none")
    try:
        return Contents.model_validate_json(found)
    except ValidationError:
        raise ServingError(f"{_subject(tenant, bundle_id)} is damaged: its list of files") from None


def verify_bundle(store: Place, tenant: str, bundle_id: str, *, key: bytes | None = None) -> None:
    """Read a bundle and verify every digest; without its key an encrypted one is not opened.

    Raises:
        ServingError: as `read_bundle`.
    """
    contents = read_contents(store, tenant, bundle_id)
    if contents.key is None or key is not None:
        read_bundle(store, tenant, bundle_id, key=key)
    else:
        _read_blobs(open_objects(store), tenant, bundle_id, contents)


def remove_bundle(store: Place, tenant: str, bundle_id: str) -> None:
    """Remove a bundle, and the blobs that no other bundle of the tenant has."""
    objects = open_objects(store)
    objects.delete(contents_key(tenant, bundle_id))
    _remove_unnamed(objects, tenant)


def _remove_unnamed(objects: Objects, tenant: str) -> None:
    """Remove the tenant's blobs that no bundle has."""
    kept = set()
    for one in objects.list(f"bundles/{tenant}"):
        other = one.key.rpartition("/")[2].removesuffix(".json")
        kept |= {blob.sha256 for blob in read_contents(objects, tenant, other).files.values()}
    for one in objects.list(f"blobs/{tenant}"):
        if one.key.rpartition("/")[2] not in kept:
            objects.delete(one.key)


def _subject(tenant: str, bundle_id: str) -> str:
    return f"bundle {bundle_id[:12]} of tenant {tenant}"


def _read_blobs(
    objects: Objects, tenant: str, bundle_id: str, contents: Contents
) -> dict[str, bytes]:
    """The files as they are stored, each with the digest that `contents` says."""
    found = {}
    for name, blob in contents.files.items():
        content = objects.read(blob_key(tenant, blob.sha256))
        if content is None:
            raise ServingError(f"{_subject(tenant, bundle_id)} cannot be read: {name} is missing")
        if sha256_hex(content) != blob.sha256:
            raise ServingError(
                f"{_subject(tenant, bundle_id)} is damaged: {name} does not have its recorded "
                "digest"
            )
        found[name] = content
    return found


def read_bundle(store: Place, tenant: str, bundle_id: str, *, key: bytes | None = None) -> Bundle:
    """Read one bundle and verify every digest that its id proves.

    Args:
        key: the tenant's key, for a bundle that is encrypted.

    Raises:
        ServingError: absent, damaged, of another tenant, or contradicting itself; or encrypted, and
            the key is missing or another one.
        StoreError: the store cannot be read.
    """
    listed = read_contents(store, tenant, bundle_id)
    return open_bundle(open_objects(store), tenant, bundle_id, listed, key=key)


def open_bundle(
    objects: Objects, tenant: str, bundle_id: str, listed: Contents, *, key: bytes | None = None
) -> Bundle:
    """Read a bundle's files as `listed` names them; the rest is `read_bundle`."""
    subject = _subject(tenant, bundle_id)
    if listed.key is not None and (key is None or key_id(key) != listed.key):
        have = "none was given" if key is None else f"key {key_id(key)} was given"
        raise ServingError(f"{subject} is encrypted with key {listed.key}, and {have}")
    contents = _read_blobs(objects, tenant, bundle_id, listed)
    digests = {name: blob.sha256 for name, blob in listed.files.items()}
    if listed.key is not None and key is not None:
        contents = {
            name: open_sealed(key, content, about=f"{tenant}/{name}")
            for name, content in contents.items()
        }
        digests = {name: sha256_hex(content) for name, content in contents.items()}
    try:
        head_bytes = contents[_HEAD]
        if digests[_HEAD][:12] != bundle_id[65:]:
            raise ServingError(f"{subject} is damaged: {_HEAD} does not have the digest in its id")
        head = _Head.model_validate_json(head_bytes)
        names = [_ADAPTER, _FAQS, _INDEX]
        names += [_VARIANT] if head.variant else []
        names += [_SCORER] if head.scorer else []
        contents = {name: contents[name] for name in names}
    except KeyError:
        raise ServingError(f"{subject} is damaged: its list of files lacks one") from None
    except ValidationError:
        raise ServingError(f"{subject} is damaged: {_HEAD} is malformed") from None
    if head.manifest.tenant != tenant or head.manifest.version != bundle_id[:64]:
        raise ServingError(f"{subject} holds another tenant's or another version's manifest")
    for name in contents:
        if head.files.get(name) != digests[name]:
            raise ServingError(f"{subject} is damaged: {name} does not have its recorded digest")
    try:
        index = safetensors.torch.load(contents[_INDEX])
        bundle = Bundle(
            manifest=head.manifest,
            adapter_payload=contents[_ADAPTER],
            faqs=_faqs_from_bytes(contents[_FAQS]),
            vectors=index["vectors"],
            faq_of_vector=index["faq_of_vector"],
            threshold=head.threshold,
            variant=BundledVariant(head.variant, contents[_VARIANT]) if head.variant else None,
            calibration=head.calibration,
            scorer=contents.get(_SCORER),
        )
    except (SafetensorError, KeyError, pa.ArrowException):
        raise ServingError(f"{subject} is malformed: its index or FAQs cannot be decoded") from None
    _check(bundle, head.files[_ADAPTER])
    return bundle


def _check(bundle: Bundle, payload_sha256: str) -> None:
    """Raise ServingError unless the parts agree with each other."""
    tenant, vectors, owner = bundle.manifest.tenant, bundle.vectors, bundle.faq_of_vector
    size, num_faqs = bundle.manifest.encoder.embedding_size, len(bundle.faqs)
    faults = (
        (payload_sha256 != bundle.manifest.version, "payload is not the version"),
        (num_faqs == 0, "no FAQ"),
        (len({faq.faq_id for faq in bundle.faqs}) != num_faqs, "duplicate faq_id"),
        (vectors.dtype != torch.float32 or vectors.dim() != 2, "vectors are not a float32 matrix"),
        (vectors.shape[-1:] != (size,), f"vectors are not {size} wide"),
        (owner.dtype != torch.int64 or owner.shape != vectors.shape[:1], "not one FAQ a vector"),
        (owner.unique().tolist() != list(range(num_faqs)), "not every FAQ has a vector"),
        (not -1 <= bundle.threshold <= 1, "threshold is outside [-1, 1]"),
    )
    for is_fault, problem in faults:
        if is_fault:
            raise ServingError(f"bundle of tenant {tenant} refused: {problem}")
    lengths = torch.linalg.vector_norm(vectors.double(), dim=-1)
    if not bool(((lengths - 1).abs() < 1e-3).all()):  # also false for NaN
        raise ServingError(f"bundle of tenant {tenant} refused: vectors are not of unit length")


def _faqs_to_bytes(faqs: list[Faq]) -> bytes:
    rows = [{"faq_id": f.faq_id, "question": f.question, "answer": f.answer} for f in faqs]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_FAQ_COLUMNS), sink)
    return bytes(sink.getvalue())


def _faqs_from_bytes(content: bytes) -> list[Faq]:
    # `pq.read_table` takes seven times as long: it looks for a data set, and starts threads.
    table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    if not table.schema.equals(_FAQ_COLUMNS):
        raise pa.ArrowInvalid("other columns than an FAQ table's")
    return [Faq(row["faq_id"], row["question"], row["answer"]) for row in table.to_pylist()]
