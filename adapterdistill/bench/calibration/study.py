"""A check of stated confidence, expected error and drift alarms on tenants' test rows.

Each tenant arrives with few rows, trains its own adapter for a short while, and is calibrated on
what it holds out, all as an onboarding does. Then its test rows are asked, once. Of the
out-of-scope queries that some tenants have among their test rows, a few go to the held-out rows and
leave the test rows; each such tenant is calibrated with and without them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.bench.tenants import open_dataset, spread, tenant_names
from adapterdistill.confidence import Calibration
from adapterdistill.data import Query, TenantDataset, nested_order, write_tenant
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.rows import TenantRows, in_scope, tokenise, write_rows
from adapterdistill.distill.stage import StageSpec, run_stage
from adapterdistill.distill.training import Schedule
from adapterdistill.evaluation.calibration import calibrate
from adapterdistill.evaluation.evaluate import (
    Judged,
    Ranking,
    abstention_threshold,
    build_index,
    judge,
    rank_queries,
)
from adapterdistill.sections import TrainingConfig
from adapterdistill.serve.engine.drift import Drift, Shift
from adapterdistill.testbed.progress import phase

COSINE, CONSTANT, CALIBRATED = "cosine", "constant", "calibrated"
_TRAINING = TrainingConfig()


@dataclass(frozen=True)
class Arrival:
    """The rows with which each tenant arrives."""

    per_faq: int
    """Training queries."""
    valid: int
    """The most `valid` queries; without any, rows are held out as an onboarding does it."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tenants: int | None
    arrivals: tuple[Arrival, ...]
    seeds: int
    """Seeds of the choice of rows, of weights and of batches."""
    steps: int
    max_test: int
    """The most answerable test queries, and the most out-of-scope ones."""
    known_out_of_scope: int


_ARRIVALS = (Arrival(3, 0), Arrival(20, 100))
SIZES = {
    "tiny": Size(2, _ARRIVALS[:1], seeds=1, steps=2, max_test=40, known_out_of_scope=4),
    "quick": Size(8, _ARRIVALS, seeds=1, steps=20, max_test=300, known_out_of_scope=30),
    "standard": Size(None, _ARRIVALS, seeds=1, steps=20, max_test=300, known_out_of_scope=30),
}


@dataclass(frozen=True)
class Case:
    """One calibrated tenant, and what its test rows say of it.

    Out-of-scope queries are among these only where some were held out: as many to an answerable
    one as there.
    """

    tenant: str
    arrival: Arrival
    seed: int
    knows_out_of_scope: bool
    calibration: Calibration
    threshold: float
    confidence: dict[str, Tensor]
    """[test rows] float64 each: the cosine taken for a probability, the held-out share of right
    answers whatever the score, and the calibrated one."""
    right: Tensor
    """[test rows] bool: the best FAQ is right."""
    answered: Tensor
    """[test rows] bool"""
    error_unknown: float | None
    """Share of wrong among the answered if every second query were out of scope; None where that
    was known of, or no such query is at hand."""
    own: Shift
    """Drift of the test rows, which are drawn like the held-out ones."""
    strange: Shift
    """Drift when another tenant's users ask it."""

    @property
    def error(self) -> float | None:
        """Share of wrong among the answered; None: none was."""
        return _wrong_share(self.right, self.answered)


def measure_calibration(encoder: Encoder, data: Path, workspace: Path, size: Size) -> list[Case]:
    """Every case; `workspace` is for the tenants as they arrive."""
    names = spread(tenant_names(data), size.tenants)
    cases: list[Case] = []
    for arrival, seed in product(size.arrivals, range(size.seeds)):
        with phase(f"{arrival.per_faq} queries an FAQ, seed {seed}", len(names)) as step:
            rows = []
            for name in names:
                source = open_dataset(data / name, workspace / "whole")
                arrived = arrive(source, name, workspace, arrival, size, seed=seed)
                fraction = _TRAINING.held_out_fraction
                rows.append(tokenise(arrived, encoder, seed=seed, held_out_fraction=fraction))
            for place, name in enumerate(names):
                strangers = in_scope(rows[(place + 1) % len(names)].test)
                judged, strange = _judge(encoder, rows[place], strangers, workspace, size, seed)
                for knows in (False, True):
                    cases += _cases(judged, strange, name, arrival, seed, knows=knows)
                step()
    return cases


def arrive(
    source: TenantDataset, name: str, workspace: Path, arrival: Arrival, size: Size, *, seed: int
) -> TenantDataset:
    """The tenant with the rows that it arrives with; which ones, is drawn by hash."""
    parts: dict[tuple[str, str | None], list[Query]] = {}
    for query in source.queries():
        of_train = query.split == "train"
        kind = query.faq_id if of_train or query.out_of_scope else "answerable"
        parts.setdefault((query.split, kind), []).append(query)

    def drawn(split: str, kind: str | None) -> list[Query]:
        queries = parts.get((split, kind), [])
        order = nested_order([query.text for query in queries], seed=seed, tenant=name)
        return [queries[row] for row in order]

    faqs = source.faqs()
    kept = [q for faq in faqs for q in drawn("train", faq.faq_id)[: arrival.per_faq]]
    kept += drawn("valid", "answerable")[: arrival.valid]
    kept += drawn("test", "answerable")[: size.max_test]
    outside = drawn("test", None)
    num_known = min(size.known_out_of_scope, len(outside) // 2)
    kept += [replace(query, split="valid") for query in outside[:num_known]]
    kept += outside[num_known:][: size.max_test]
    folder = workspace / f"{arrival.per_faq}-{seed}" / name
    write_tenant(folder, faqs, kept, overwrite=True)
    return TenantDataset.open(folder)


def _judge(
    encoder: Encoder,
    rows: TenantRows,
    strangers: TrainingRows,
    workspace: Path,
    size: Size,
    seed: int,
) -> tuple[Judged, Tensor]:
    """The own adapter, trained as an onboarding trains it, on the tenant's rows; and the top scores
    of the strangers' queries."""
    file = workspace / "rows.safetensors"
    write_rows(file, rows.stage())
    schedule = Schedule(size.steps, _TRAINING.extract_learning_rate)
    trained = run_stage(StageSpec(str(file), _TRAINING.bottleneck_size, schedule, seed), encoder)
    adapters = [
        one for one in (trained.student, *trained.folds) if isinstance(one, BottleneckAdapter)
    ]
    judged = judge(encoder, adapters[0], rows, adapters[1:])
    index = build_index(encoder, adapters[0], rows.index(), rows.num_faqs)
    unlabelled = TrainingRows(strangers.ids, torch.full_like(strangers.labels, -1))
    return judged, rank_queries(encoder, adapters[0], index, unlabelled).best_out_of_scope


def _cases(
    judged: Judged, strange: Tensor, name: str, arrival: Arrival, seed: int, *, knows: bool
) -> Iterator[Case]:
    """The case with, or that without, the out-of-scope held-out rows; none if there is no such."""
    held, test = judged.held, judged.test
    if not knows:
        held = replace(held, best_out_of_scope=held.best_out_of_scope[:0], times_out_of_scope=1)
    threshold = abstention_threshold(held)
    calibration = calibrate(held, threshold)
    num_known = calibration.rows - len(held.best) if calibration else 0
    if calibration is None or (knows and not num_known):
        return
    num_outside = round(len(test.best) * num_known / len(held.best))
    if num_outside > len(test.best_out_of_scope):
        return  # too few to mix the test rows like the held-out ones
    scores, right = _asked(test, num_outside)
    num_right = int((held.ranks == 1).sum())
    every_second = _asked(test, len(test.best))
    yield Case(
        tenant=name,
        arrival=arrival,
        seed=seed,
        knows_out_of_scope=knows,
        calibration=calibration,
        threshold=threshold,
        confidence={
            COSINE: scores.clamp(0, 1),
            CONSTANT: torch.full_like(scores, (num_right + 1) / (calibration.rows + 2)),
            CALIBRATED: torch.tensor(
                [calibration.confidence(score) for score in scores.tolist()], dtype=torch.float64
            ),
        },
        right=right,
        answered=scores >= threshold,
        error_unknown=(
            None
            if knows or not len(test.best_out_of_scope)
            else _wrong_share(every_second[1], every_second[0] >= threshold)
        ),
        own=_shift(calibration, scores, threshold),
        strange=_shift(calibration, strange, threshold),
    )


def _asked(test: Ranking, num_outside: int) -> tuple[Tensor, Tensor]:
    """Top scores and whether the best FAQ is right, of all answerable and some other queries."""
    outside = test.best_out_of_scope[:num_outside]
    right = torch.cat([test.ranks == 1, torch.zeros(len(outside), dtype=torch.bool)])
    return torch.cat([test.best, outside]).double(), right


def _shift(calibration: Calibration, scores: Tensor, threshold: float) -> Shift:
    drift = Drift(calibration)
    drift.count((score, score < threshold) for score in scores.tolist())
    return drift.read()


def _wrong_share(right: Tensor, answered: Tensor) -> float | None:
    return float((~right[answered]).double().mean()) if bool(answered.any()) else None
