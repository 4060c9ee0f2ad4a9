"""Records that may leave a data owner: numbers, names and digests only.

`actors.stages` lists them; a test holds every public method of `DataOwner` to that list.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from adapterdistill.confidence import Calibration
from adapterdistill.evaluation.membership import Membership
from adapterdistill.evaluation.report import (
    Choice,
    Comparison,
    Figures,
    MetricName,
    Reason,
    VariantComparison,
    VariantReason,
)
from adapterdistill.manifest import BundleId, Initialisation, Metric, Record, Sha256, VariantKind
from adapterdistill.store.release import UtcTime

_NAME = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
VersionName = Annotated[
    str,
    StringConstraints(pattern=rf"^tenants/{_NAME}/adapters/{_NAME}/versions/[0-9a-f]{{64}}$"),
]


class StageResult(Record):
    """Record of a stage: how long it took, and the owner's peak memory so far."""

    seconds: float = 0.0
    peak_rss_mb: float = 0.0

    @classmethod
    def file_name(cls) -> str:
        """The file in the run's folder that keeps the result."""
        return f"{cls.__name__.lower()}.json"


class Validated(StageResult):
    counts: dict[MetricName, int]
    data_sha256: Sha256
    max_tokens: int | None = None
    cut: dict[MetricName, int] = Field(default_factory=dict)
    """Questions, answers and queries that are longer than `max_tokens`: their end is not read."""


class Trained(StageResult):
    """Record of a training: where it stopped and how it scored on held-out rows."""

    trained: bool
    best_step: int = 0
    steps: int = 0
    held_out_score: float | None = None
    adapter_sha256: Sha256 | None = None
    training_peak_rss_mb: float = 0.0


class Extracted(Trained):
    """Stage 1."""

    untrained_because: Literal["nothing is labelled", "teachers make up for it"] | None = None


class Fetched(StageResult):
    teachers: tuple[VersionName, ...]
    payload_bytes: int
    refused: tuple[VersionName, ...] = ()
    """Versions that are not what their manifests say; they teach nobody."""
    init: Initialisation | None = None
    """Initialisation that all teachers state."""
    listed: int = 0
    """Adapters that the teachers were chosen from."""


class Distilled(Trained):
    """Stage 2, and which teachers helped."""

    weights: dict[VersionName, float] = Field(default_factory=dict)
    """Each teacher's share of the teaching."""
    leave_one_out: dict[VersionName, float] = Field(default_factory=dict)
    """Held-out score of the composition without the teacher, minus that of the whole: below 0
    where it helped. On request."""


class Evaluated(StageResult):
    """The candidates' competition on held-out rows."""

    candidates: dict[Choice, Figures]
    choice: Choice
    rows: int
    """Number of held-out rows."""
    num_faqs: int
    folds: int = 0
    """Number of folds that held the rows out; 0 without cross-validation."""
    held_out: Comparison | None
    """Own adapter, or the bare encoder where there is none, against the student."""
    test: Comparison | None
    """The same on test rows: reported, never used for a choice."""
    questions_alone: dict[MetricName, Metric] = Field(default_factory=dict)
    """The bare encoder on test rows, by its cosine to the questions: the state before a run."""
    threshold: float
    """Top score under which the chosen candidate abstains."""
    perhaps_out_of_scope: int = 0
    """Number of unlabelled queries under it; the owner finds their texts in its workspace."""
    calibration: Calibration | None = None
    """Calibration of the chosen candidate's top scores, on held-out rows."""
    membership: Membership | None = None
    """What the chosen candidate's training reveals of its rows; None where it cannot be told."""


class Decided(StageResult):
    choice: Choice
    reason: Reason


class Published(StageResult):
    name: VersionName
    payload_bytes: int
    metrics: dict[MetricName, Metric]
    quarantined: bool = False
    """Whether it is unlike other tenants' adapters, and teaches nobody until an operator releases
    it."""


class VariantMade(Trained):
    """A cheaper variant of the chosen adapter, and whether it is served in the adapter's place."""

    served: VariantKind = Field(alias="form")
    """The kind of the variant, or `adapter`."""
    reason: VariantReason
    held_out: VariantComparison | None = None
    """On held-out rows: decides."""
    test: VariantComparison | None = None
    """On test rows: reported."""
    threshold: float | None = None
    """Top score under which the variant would abstain."""
    calibration: Calibration | None = None
    """Calibration of the variant's top scores."""
    tasks: dict[MetricName, dict[MetricName, Metric]] = Field(default_factory=dict)
    """Accuracy on a light student's further tasks, of their teachers and of the student."""

    @classmethod
    def file_name(cls) -> str:
        return "lightened.json"  # as earlier runs wrote it


class Bundled(StageResult):
    bundle: BundleId
    threshold: float
    index_vectors: int
    calibration: Calibration | None = None
    mode: Literal["live", "canary", "shadow"] = "live"
    share: float | None = None
    """A candidate's share of the requests."""
    rolled_back_at: UtcTime | None = None
    """Time at which the bundle was rolled back; it is then neither live nor tried."""
