"""The serving bundle, which a tenant's owner gives to the tenant's own serving deployment.

    STORE/TENANT/live.json                                   which is live: `adapterdistill.release`
    STORE/TENANT/versions/BUNDLE_ID/bundle.json              manifest, threshold, files' digests
                                    adapter.safetensors      the registry's payload, byte for byte
                                    faqs.parquet             faq_id, question, answer
                                    index.safetensors        vectors, faq_of_vector
                                    form.safetensors         the variant that is served instead of
                                                             the adapter, if there is one
                                    scorer.safetensors       what ranks the FAQs instead of the
                                                             index, if there is one

BUNDLE_ID is VERSION-DIGEST12: the adapter's version, then the first 12 hex digits of the sha256 of
`bundle.json`, which holds the digests of the other files. So the id proves all of the content,
bundles are immutable, and writing the same bundle twice is harmless. A bundle holds the tenant's
FAQs, so it is private to the tenant and never goes to the registry.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from adapterdistill.files import (
    STAGED,
    alone_in,
    private_folder,
    remove_staged,
    sync,
    write_synced,
)
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


def write_bundle(store: Path, bundle: Bundle) -> Path:
    """Write the whole bundle or nothing; return its folder, named by the bundle id. Idempotent.

    Raises:
        ServingError: the parts contradict each other.
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
    bundle_id = f"{bundle.manifest.version}-{sha256_hex(head)[:12]}"
    folder = _bundle_folder(store, bundle.manifest.tenant, bundle_id)
    private_folder(store)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn(store, bundle.manifest.tenant) as own:
        if folder.exists():
            if all(_has_content(folder / name, content) for name, content in contents.items()):
                return folder
            # Damaged on disk. Moved aside first: the name must never show a half-written bundle.
            folder.rename(own / f"{STAGED}damaged")
        staged = own / f"{STAGED}{bundle_id}"
        try:
            staged.mkdir()
            for name, content in contents.items():
                write_synced(staged / name, content)
            sync(staged)
            staged.rename(folder)
            sync(folder.parent)
        finally:
            remove_staged(own)
    return folder


def read_bundle(store: Path, tenant: str, bundle_id: str) -> Bundle:
    """Read one bundle and verify every digest that its id proves.

    Raises:
        ServingError: absent, damaged, of another tenant, or contradicting itself.
    """
    folder = _bundle_folder(store, tenant, bundle_id)
    subject = f"bundle {bundle_id[:12]} of tenant {tenant}"
    try:
        head_bytes = (folder / _HEAD).read_bytes()
        if sha256_hex(head_bytes)[:12] != bundle_id[65:]:
            raise ServingError(f"{subject} is damaged: {_HEAD} does not have the digest in its id")
        head = _Head.model_validate_json(head_bytes)
        names = [_ADAPTER, _FAQS, _INDEX]
        names += [_VARIANT] if head.variant else []
        names += [_SCORER] if head.scorer else []
        contents = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise ServingError(f"{subject} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise ServingError(f"{subject} is damaged: {_HEAD} is malformed") from None
    if head.manifest.tenant != tenant or head.manifest.version != bundle_id[:64]:
        raise ServingError(f"{subject} holds another tenant's or another version's manifest")
    for name, content in contents.items():
        if head.files.get(name) != sha256_hex(content):
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


def tenant_folder(store: Path, tenant: str) -> Path:
    """Locate the tenant's release and bundles. Raises ServingError: not a tenant's name."""
    if not is_name(tenant):
        raise ServingError("not a tenant name")
    return store / tenant


@contextmanager
def turn(store: Path, tenant: str) -> Iterator[Path]:
    """Lock the tenant's folder against other writers, and remove what killed writers left in it.

    Raises:
        ServingError: there is no folder.
    """
    folder = tenant_folder(store, tenant)
    with ExitStack() as alone:
        try:
            alone.enter_context(alone_in(folder))
        except OSError as error:
            raise ServingError(f"tenant {tenant}: no bundles ({error.strerror})") from None
        remove_staged(folder)
        yield folder


def _bundle_folder(store: Path, tenant: str, bundle_id: str) -> Path:
    if _BUNDLE_ID.fullmatch(bundle_id) is None:
        raise ServingError(f"tenant {tenant}: not a bundle id: expected SHA256-DIGEST12")
    return tenant_folder(store, tenant) / "versions" / bundle_id


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


def _has_content(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
