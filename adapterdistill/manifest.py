"""Names, references and manifests: what an adapter is and where it came from.

The manifest travels with the payload; the payload's sha256 is the version. Canonical JSON (sorted
keys, no spaces, UTF-8) makes the manifest itself reproducible.
"""

import base64
import hashlib
import json
import math
import re
import struct
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from adapterdistill.errors import InvalidManifestError

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
BUNDLE_ID_PATTERN = r"^[0-9a-f]{64}-[0-9a-f]{12}$"
BundleId = Annotated[str, StringConstraints(pattern=BUNDLE_ID_PATTERN)]
_LANGUAGE_TAG = re.compile(
    r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?((?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)",
    re.IGNORECASE,
)
UNDETERMINED = "und"
"""BCP 47's tag of a language that nobody named."""
_VERSION_NAME = re.compile(r"tenants/([^/]+)/adapters/([^/]+)/versions/([0-9a-f]{64})")


def sha256_hex(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def is_name(text: str) -> bool:
    """Say whether `text` may name a tenant, an adapter or an alias."""
    return re.fullmatch(NAME_PATTERN[1:-1], text) is not None


def _language_tag(text: str) -> str:
    match = _LANGUAGE_TAG.fullmatch(text)
    if match is None or len(text) > 20:
        raise ValueError("must be a BCP 47 language tag, such as en, de-AT or zh-Hant")
    language, script, region, variants = match.groups(default="")
    parts = (language.lower(), script.title(), region.upper(), *variants.lower().split("-"))
    return "-".join(filter(None, parts))


LanguageTag = Annotated[str, AfterValidator(_language_tag)]
"""A language with script, region and variants (RFC 5646), in the usual case: `zh-Hant-TW`."""


class Record(BaseModel):
    """Base of the frozen, closed records that cross a process or a disk.

    A field that was renamed has its written key, which stays, as its alias.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    def canonical_json(self) -> bytes:
        """Serialise with sorted keys, no spaces, in UTF-8: equal records give equal bytes."""
        return canonical_json(self.model_dump(mode="json"))


def canonical_json(value: object) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


class VersionRef(Record):
    """The name of one immutable adapter version."""

    tenant: Name
    adapter: Name
    version: Sha256

    @property
    def name(self) -> str:
        return f"tenants/{self.tenant}/adapters/{self.adapter}/versions/{self.version}"

    @classmethod
    def parse(cls, name: str) -> "VersionRef":
        """Parse a version's name. Raises InvalidManifestError: it is not one."""
        match = _VERSION_NAME.fullmatch(name)
        if match is None or not is_name(match[1]) or not is_name(match[2]):
            raise InvalidManifestError(
                "not a version name: expected tenants/TENANT/adapters/ADAPTER/versions/SHA256"
            )
        return cls(tenant=match[1], adapter=match[2], version=match[3])


HIDDEN = re.compile(r"hidden/[0-9a-f]{64}")
"""A salted commitment to a version's name, which says nothing about it."""

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""How a row's last hidden states become one vector, as sentence-transformers names it."""


class EncoderRef(Record):
    """The frozen encoder of an adapter, and how it reads texts: all that decides the vectors.

    The digests identify it; the name is for people. A field that an older manifest lacks has the
    value that such a manifest means, and is left out at that value.
    """

    name: str = Field(max_length=200)
    model_type: str = Field(max_length=40)
    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    weights_sha256: Sha256
    """Digest of the weights; of the pooling and the modules too, if they are more than a mean."""
    tokenizer_sha256: Sha256
    pooling: tuple[PoolingMode, ...] = Field(
        default=("mean",), min_length=1, max_length=6, exclude_if=lambda value: value == ("mean",)
    )
    """Several are put side by side."""
    modules: tuple[Annotated[str, StringConstraints(max_length=100)], ...] = Field(
        default=(), max_length=16, exclude_if=lambda value: not value
    )
    """Modules between pooling and unit length, to which every vector is brought at the end."""
    dimensions: int | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    """Size of a vector; None: `hidden_size`."""
    include_prompt: bool = Field(default=True, exclude_if=lambda value: value)
    """Whether pooling sees the prompt's tokens."""
    query_prompt: str = Field(default="", max_length=1000, exclude_if=lambda value: not value)
    passage_prompt: str = Field(default="", max_length=1000, exclude_if=lambda value: not value)
    """Put before every FAQ text, as `query_prompt` is before every query."""
    max_tokens: int | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    """Length at which texts are cut; None: not recorded, the server's setting decides."""

    @property
    def embedding_size(self) -> int:
        """Size of a vector."""
        return self.dimensions or self.hidden_size

    def same_as(self, other: "EncoderRef") -> bool:
        """Say whether both embed the same tokens alike; prompts and length are each adapter's."""
        names = {"embedding_size", *EncoderRef.model_fields} - _EACH_ADAPTERS_OWN
        return all(getattr(self, name) == getattr(other, name) for name in names)


_EACH_ADAPTERS_OWN = {"name", "query_prompt", "passage_prompt", "max_tokens", "dimensions"}
"""`dimensions` is in `embedding_size`."""


VariantKind = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]
"""A cheaper variant of an adapter that a tenant may be served by: the name of its method."""


class TensorSpec(Record):
    dtype: Literal["F32", "F16", "BF16"]
    shape: tuple[int, ...]


class Metric(Record):
    """A measured value and how many rows it was measured on."""

    value: float
    count: int = Field(ge=0)


class GoldenVectors(Record):
    """Distances by which the adapter moves the embedding of each probe sentence (Euclidean).

    A loader that measures other distances has another encoder, or an adapter that is not active.
    How much they may differ is the loader's to say: `tolerance` is only what the owner measured by.
    """

    probe_sha256: Sha256
    distances: tuple[float, ...]
    tolerance: float = Field(gt=0)


MAX_HEADER_BYTES = 64 * 1024
"""Greatest size of an adapter's safetensors header, with its metadata."""
FINGERPRINT_BYTES = 256


def _fingerprint_values(text: str) -> str:
    values = base64.b64decode(text, validate=True)
    # One spelling only, so that equal fingerprints give equal manifests.
    if len(values) != FINGERPRINT_BYTES or base64.b64encode(values).decode() != text:
        raise ValueError(f"must be base64 of {FINGERPRINT_BYTES} bytes")
    return text


class Fingerprint(Record):
    """How strongly the adapter reads each public probe text: others choose teachers by it.

    `values` is base64 of one signed byte a probe, as `adapterdistill.selection` makes them.
    """

    probe_sha256: Sha256
    values: Annotated[str, AfterValidator(_fingerprint_values)]

    @classmethod
    def of(cls, probe_sha256: str, values: bytes) -> "Fingerprint":
        """Make a fingerprint. Raises InvalidManifestError: not FINGERPRINT_BYTES values."""
        try:
            return cls(probe_sha256=probe_sha256, values=base64.b64encode(values).decode())
        except ValidationError:
            raise InvalidManifestError(
                f"fingerprint refused: expected a probe sha256 and {FINGERPRINT_BYTES} bytes, got"
                f" {len(values)}"
            ) from None

    def to_bytes(self) -> bytes:
        return base64.b64decode(self.values)

    def text(self) -> str:
        """Write the fingerprint as the manifest has it."""
        return self.canonical_json().decode()


MAX_PROTOTYPE_BYTES = 24 * 1024


class SharedPrototypes(Record):
    """The mean embedding of each class in each domain of an owner's rows.

    Other owners weigh their own rows by them. They are embedded by the public frozen encoder
    without an adapter; each row's embedding has length 1 at most.
    """

    classes: tuple[Annotated[str, StringConstraints(min_length=1, max_length=100)], ...]
    domains: int = Field(default=1, ge=1, exclude_if=lambda value: value == 1)
    counts: tuple[Annotated[int, Field(ge=0)], ...]
    """Rows of each domain's classes. A class without rows has a mean of zeros."""
    width: int = Field(gt=0)
    means: str
    """Base64 of little-endian float16, [domains, classes, width]."""
    noise: float = Field(ge=0)
    """Standard deviation of the noise on each mean, by how far one row can move the mean."""

    @model_validator(mode="after")
    def _sound(self) -> "SharedPrototypes":
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must be two or more, each once")
        number = self.domains * len(self.classes)
        if len(self.counts) != number:
            raise ValueError("counts must be as many as domains x classes")
        values = self.to_bytes()
        if len(values) > MAX_PROTOTYPE_BYTES or len(values) != 2 * number * self.width:
            raise ValueError(
                f"means must be domains x classes x width values, {MAX_PROTOTYPE_BYTES} bytes"
            )
        if base64.b64encode(values).decode() != self.means:
            raise ValueError("means must be base64 in its one spelling")
        if not all(math.isfinite(value) for (value,) in struct.iter_unpack("<e", values)):
            raise ValueError("means must be finite")
        return self

    def to_bytes(self) -> bytes:
        return base64.b64decode(self.means, validate=True)


class Initialisation(Record):
    """The public weights that a training started from: those of one start average well."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9/-]{1,80}$")]
    sha256: Sha256
    """Digest of its payload, packed without the encoder's name."""


class Software(Record):
    """The software that made an adapter."""

    version: str = Field(max_length=40)
    """Release of this project."""
    python: str = Field(max_length=40)
    distributions: int = Field(ge=0)
    """How many distributions were installed."""
    distributions_sha256: Sha256
    """Digest of their list, `name==version`, one a line, sorted (`adapterdistill.software`)."""


class Manifest(Record):
    """Everything about a published adapter except its weights."""

    schema_version: Literal[1] = 1
    tenant: Name
    adapter: Name
    version: Sha256
    payload_bytes: int = Field(gt=0)
    kind: Literal["bottleneck", "fusion"]
    task: str = Field(default="retrieval", max_length=40)
    language: str = Field(default="en", max_length=20)
    labels: tuple[Name, ...] = Field(default=(), max_length=16, exclude_if=lambda value: not value)
    """Labels that its owner chose, by which others find it."""
    encoder: EncoderRef
    tensors: dict[str, TensorSpec]
    method: str = Field(max_length=60)
    config_sha256: Sha256
    seed: int
    """Seed of the initialisation. The order of rows is the owner's secret, unless the run's
    `public_seed` is set."""
    metrics: dict[str, Metric] = {}
    teachers: tuple[str, ...] = ()
    """Names of versions; for those that a reader may not see, commitments (`HIDDEN`)."""
    privacy: str = Field(max_length=2000)
    golden: GoldenVectors
    # Left out where there is none: the bytes of manifests made without one stay as they were. The
    # written key is `signature`, as released clients read it.
    fingerprint: Fingerprint | None = Field(
        default=None, alias="signature", exclude_if=lambda value: value is None
    )
    prototypes: SharedPrototypes | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    init: Initialisation | None = Field(default=None, exclude_if=lambda value: value is None)
    """Initialisation of the training, or of all its teachers; None: unknown, or of several."""
    software: Software | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _of_one_encoder(self) -> "Manifest":
        if self.prototypes is not None and self.prototypes.width != self.encoder.embedding_size:
            raise ValueError("prototypes must be as wide as the encoder's embeddings")
        return self

    @property
    def ref(self) -> VersionRef:
        return VersionRef(tenant=self.tenant, adapter=self.adapter, version=self.version)

    @classmethod
    def from_json(cls, text: bytes | str) -> "Manifest":
        """Parse a manifest. Raises InvalidManifestError: names faulty fields, not values."""
        try:
            manifest = cls.model_validate_json(text)
            for teacher in manifest.teachers:
                if not HIDDEN.fullmatch(teacher):
                    VersionRef.parse(teacher)
            return manifest
        except ValidationError as error:
            fields = sorted({".".join(map(str, e["loc"])) or "(whole)" for e in error.errors()})
            raise InvalidManifestError(f"manifest refused: invalid {', '.join(fields)}") from None
