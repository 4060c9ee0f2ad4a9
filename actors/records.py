"""What may leave a data owner: these record types, with numbers, names and digests only.

A test holds every public method of `DataOwner` to this list.
"""

from adapterdistill.evaluation.report import Choice, Comparison
from adapterdistill.manifest import Metric, Record

__all__ = [
    "LEAVES_OWNER",
    "Bundled",
    "Decided",
    "Trained",
    "Distilled",
    "Evaluated",
    "Extracted",
    "Fetched",
    "Published",
    "StageResult",
    "Validated",
]


class StageResult(Record):
    """Every stage says how long it took and the owner's peak memory so far."""

    seconds: float = 0.0
    peak_rss_mb: float = 0.0


class Validated(StageResult):
    counts: dict[str, int]
    data_sha256: str


class Trained(StageResult):
    """A training: where it stopped and how it scored on held-out rows."""

    trained: bool
    best_step: int = 0
    steps: int = 0
    held_out_score: float | None = None
    adapter_sha256: str | None = None
    training_peak_rss_mb: float = 0.0


class Extracted(Trained):
    """Stage 1."""


class Fetched(StageResult):
    teachers: tuple[str, ...]
    payload_bytes: int


class Distilled(Trained):
    """Stage 2."""


class Evaluated(StageResult):
    held_out: Comparison | None
    """On held-out rows: decides."""
    test: Comparison | None
    """On test rows: reported, never used for a choice."""


class Decided(StageResult):
    choice: Choice
    reason: str


class Published(StageResult):
    name: str
    payload_bytes: int
    metrics: dict[str, Metric]


class Bundled(StageResult):
    bundle: str
    threshold: float
    index_vectors: int


LEAVES_OWNER = (
    Validated,
    Extracted,
    Fetched,
    Distilled,
    Evaluated,
    Decided,
    Published,
    Bundled,
)
