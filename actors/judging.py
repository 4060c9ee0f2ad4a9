"""Adapters and variants in a run's folder, ranked on the tenant's rows and compared."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from actors.records import Evaluated, Published, VariantMade
from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.bundle import NEVER_ABSTAIN
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Query, TenantDataset
from adapterdistill.distill.folds import fold_file
from adapterdistill.distill.labels import first_labels, labels_of
from adapterdistill.distill.rows import TenantRows
from adapterdistill.distill.stage import load_payload
from adapterdistill.distill.variants import unpack_variant
from adapterdistill.errors import NotServedError
from adapterdistill.evaluation.arrival import (
    AVERAGED_PRIOR,
    OWN_PRIOR,
    TEMPERATURE,
    Candidate,
    compete,
    floor_prior,
)
from adapterdistill.evaluation.arrival import Judged as Contender
from adapterdistill.evaluation.calibration import calibrate, upper_bound
from adapterdistill.evaluation.choice import Prior
from adapterdistill.evaluation.evaluate import Judged, Ranking, abstention_threshold, judge
from adapterdistill.evaluation.foreign import foreign_texts
from adapterdistill.evaluation.metrics import gold_ranks
from adapterdistill.evaluation.report import (
    Choice,
    Figures,
    compare,
    compare_variant,
    decide_variant,
)
from adapterdistill.evaluation.scorer import Scorer
from adapterdistill.evaluation.tenant_texts import TenantTexts, read_texts
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


LEAST_ROWS = 10
"""Held-out rows from which a run may be refused for what they show."""
CHANCE_TIMES = 1.5
"""Top-1 below these many times that of guessing is no better than by chance."""


@dataclass(frozen=True)
class Contest:
    """The candidates' judgement of a tenant, and the scorer of the chosen one."""

    evaluated: Evaluated
    scorer: Scorer


def evaluate(
    encoder: Encoder,
    adapters: Mapping[Choice, Path],
    dataset: TenantDataset,
    rows: TenantRows,
    config: OnboardConfig,
) -> Contest:
    """Let the candidates compete on held-out rows; test rows are for the record.

    Args:
        adapters: the candidates' payload files, with the folds' beside those that rows trained.
    """
    t = config.training
    texts, folds = read_texts(dataset, rows, seed=t.seed, held_out_fraction=t.held_out_fraction)
    files: dict[str, Path] = dict(adapters.items())
    embedders = {name: load_payload(file) for name, file in files.items()}
    labelled = bool(rows.train.ids)
    trained_by_rows = {"own", "distilled"} if labelled else set()
    reference = next(name for name in _USUAL if name in adapters)
    found = compete(
        encoder,
        texts,
        {
            name: Candidate(
                embedder,
                _of_folds(files[name], embedder, rows) if name in trained_by_rows else (),
                None if name == reference else _prior(name, texts),
            )
            for name, embedder in embedders.items()
        },
        foreign=foreign_texts(encoder, texts.questions),
        folds=folds,
        seed=t.seed,
        most_wrong=config.release.max_wrong_answers,
    )
    chosen = found.choice.chosen
    ranked = {name: _ranking(one, texts) for name, one in found.judged.items()}
    tested = {
        name: _tested(encoder, embedders[name], one.scorer, dataset)
        for name, one in found.judged.items()
    }
    own = "own" if "own" in adapters else "bare"
    student = "distilled" if "distilled" in adapters else own
    figures = {
        name: Figures(
            held_out=ranked[name].metrics(),
            test=tested[name].metrics(),
            difference=judgement.difference,
            error=judgement.error,
            expected=judgement.posterior,
        )
        for name, judgement in found.choice.judgements.items()
    }
    return Contest(
        Evaluated(
            candidates=_FIGURES.validate_python(figures),
            choice=_CHOICE.validate_python(chosen),
            rows=len(found.chosen.held.gold),
            num_faqs=rows.num_faqs,
            folds=rows.num_folds,
            held_out=compare(ranked[own], ranked[student]),
            test=compare(tested[own], tested[student]),
            threshold=max(NEVER_ABSTAIN, min(1.0, math.floor(found.threshold * 1e6) / 1e6)),
            calibration=calibrate(ranked[chosen], found.threshold),
        ),
        found.chosen.scorer,
    )


_CHOICE: TypeAdapter[Choice] = TypeAdapter(Choice)
_FIGURES: TypeAdapter[dict[Choice, Figures]] = TypeAdapter(dict[Choice, Figures])
_USUAL: tuple[Choice, ...] = ("distilled", "own", "bare")
"""The reference is the first of these that there is: it is best for most tenants."""


def _prior(name: str, texts: TenantTexts) -> Prior:
    priors = {
        "averaged": AVERAGED_PRIOR,
        "own": OWN_PRIOR,
        "bare": floor_prior(len(texts.queries), texts.num_faqs),
    }
    return priors[name]


def _of_folds(file: Path, whole: Embedder, rows: TenantRows) -> tuple[Embedder, ...]:
    """The folds' adapters; the adapter itself where other rows are held out of it."""
    if not rows.num_folds:
        return (whole,)
    return tuple(load_payload(fold_file(file, fold)) for fold in range(rows.num_folds))


def _ranking(judged: Contender, texts: TenantTexts) -> Ranking:
    """The held-out rows' ranks and evidence, and the evidence of out-of-scope examples."""
    held = judged.held
    gold = texts.right_of(held.rows)
    return Ranking(
        ranks=gold_ranks(held.scores.total, gold),
        best=held.scores.evidence,
        best_out_of_scope=judged.outside,
        score=-float(held.losses(TEMPERATURE).mean()) if len(held.gold) else None,
    )


def _tested(
    encoder: Encoder, embedder: Embedder, scorer: Scorer, dataset: TenantDataset
) -> Ranking:
    """The test rows, ranked as they would be served."""
    position = {faq.faq_id: place for place, faq in enumerate(dataset.faqs())}
    test = list(dataset.queries("test"))
    inside = [query for query in test if not query.out_of_scope]
    gold = labels_of([[position[faq] for faq in query.faq_ids] for query in inside])

    def totals(queries: Sequence[Query]) -> Tensor:
        shown = [query.text for query in queries]
        vectors = encoder.embed_texts(shown, embedder, batch_size=128).cpu()
        return scorer(vectors, shown).total

    total = totals(inside)
    return Ranking(
        ranks=gold_ranks(total, gold),
        best=total.amax(1),
        best_out_of_scope=totals([query for query in test if query.out_of_scope]).amax(1),
        score=-float(F.cross_entropy(total / TEMPERATURE, first_labels(gold))) if inside else None,
    )


def require_servable(published: Published, evaluated: Evaluated) -> None:
    """Check that the chosen candidate may be served; what was live stays live otherwise.

    Raises:
        NotServedError: the registry quarantined the adapter, or held-out queries are ranked no
            better than by chance.
    """
    if published.quarantined:
        raise NotServedError(
            "not served: the registry put the adapter in quarantine, because it is unlike other "
            "tenants' adapters; what was live stays live. Look at the data, or ask the registry's "
            "operator to release the version, and submit the run again"
        )
    found, faqs = evaluated.candidates[evaluated.choice].held_out, evaluated.num_faqs
    if evaluated.rows < LEAST_ROWS or faqs < 2:
        return
    right = round(found["top1"].value * evaluated.rows)
    if upper_bound(right, evaluated.rows) < CHANCE_TIMES / faqs:
        raise NotServedError(
            f"not served: of {evaluated.rows} held-out queries, {right} are ranked right among "
            f"{faqs} FAQs, which is no better than by chance; what was live stays live. Check "
            "that the queries' faq_id are right, that questions say something, and that FAQs can "
            "be told apart: adapterdistill data describe FOLDER"
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
