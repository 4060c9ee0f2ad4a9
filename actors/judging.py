"""Adapters and variants in a run's folder, ranked on the tenant's rows and compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.records import Evaluated, VariantMade
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.distill.folds import fold_file
from adapterdistill.distill.rows import TenantRows
from adapterdistill.distill.stage import load_payload
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.evaluation.calibration import calibrate
from adapterdistill.evaluation.evaluate import Judged, abstention_threshold, judge
from adapterdistill.evaluation.report import compare, compare_variant, decide_variant
from adapterdistill.manifest import VariantKind


def judge_adapter(encoder: Encoder, file: Path, rows: TenantRows) -> Judged:
    """Judge the adapter in `file`, and the folds' beside it, on the tenant's rows."""
    return _judge(encoder, file, rows, load_payload)


def judge_variant(encoder: Encoder, file: Path, rows: TenantRows) -> Judged:
    """Judge the variant in `file`, and the folds' beside it, on the tenant's rows."""
    return _judge(
        encoder, file, rows, lambda path: unpack_variant(path.read_bytes(), encoder).embedder
    )


def _judge(
    encoder: Encoder, file: Path, rows: TenantRows, load: Callable[[Path], Embedder]
) -> Judged:
    files = [file, *(fold_file(file, fold) for fold in range(rows.num_folds))]
    whole, *folds = map(load, files)
    return judge(encoder, whole, rows, folds)


def evaluate(own: Judged, student: Judged, *, folds: int) -> Evaluated:
    """Compare two adapters: on held-out rows for the verdict, on test rows for the record."""
    own_threshold = abstention_threshold(own.held)
    student_threshold = abstention_threshold(student.held)
    return Evaluated(
        held_out=compare(own.held, student.held),
        folds=folds,
        test=compare(own.test, student.test),
        own_threshold=own_threshold,
        distilled_threshold=student_threshold,
        own_calibration=calibrate(own.held, own_threshold),
        distilled_calibration=calibrate(student.held, student_threshold),
    )


def decide_on_variant(
    trained: dict[str, Any],
    adapter: Judged,
    variant: Judged,
    kind: VariantKind,
    *,
    most_lost: float,
) -> VariantMade:
    """Compare an adapter with a variant of it.

    Args:
        trained: the fields of `VariantMade` that say how the variant was trained.
    """
    found = compare_variant(adapter.held, variant.held)
    threshold = abstention_threshold(variant.held)
    return VariantMade(
        **trained,
        **decide_variant(found, kind, most_lost=most_lost).model_dump(),
        held_out=found,
        test=compare_variant(adapter.test, variant.test),
        threshold=threshold,
        calibration=calibrate(variant.held, threshold),
    )
