"""Stage 2 of AdapterDistillation (arXiv 2312.16261): teachers' knowledge into one adapter.

The teachers are first composed for the tenant (`composition`). Then a student, which starts as the
own adapter, learns the composition's outputs, layer by layer, and its similarities between texts,
on the tenant's texts and as many public ones. Each side runs on its own activations: a student that
imitates inside the other's pass never sees those that it will be served with. The composition is
frozen and no label is used, so that few rows cannot be overfitted.

The paper's equations were not available; this instance is this project's. The form that its figure
draws, with attention over the teachers trained beside the student, is `attention_distillation`.
"""

import json
from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.distill.batches import Batch, Choose, TrainingRows, choose_rows
from adapterdistill.distill.composition import Composition, FusedTeachers, Mixture
from adapterdistill.distill.losses import feature_distance, relation_distance
from adapterdistill.distill.method import Cost, Method, StageTexts, Start, Teaching
from adapterdistill.distill.objective import HeldOut, Objective, Recording, Scored
from adapterdistill.distill.rows import StageRows

FEATURE_WEIGHT = 5.0


class AdapterDistillation(Objective):
    """The student's distance to a frozen composition, in features and in similarities."""

    def __init__(
        self, encoder: Encoder, student: BottleneckAdapter, composition: Composition
    ) -> None:
        super().__init__()
        self._encoder = encoder
        self.composition = composition
        self.student = student

    def forward(self, batch: Batch) -> Tensor:
        goal, found = Recording(self.composition), Recording(self.student)
        with torch.no_grad():
            teacher = batch.share(self._encoder.embed(batch.tokens, goal))
        student = batch.share(self._encoder.embed(batch.tokens, found))
        distance = feature_distance(found.outputs, goal.outputs, total_tokens=batch.total_tokens)
        return FEATURE_WEIGHT * batch.total(distance) + relation_distance(student, teacher)


def distillation_of(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    rows: TrainingRows,
    *,
    own: BottleneckAdapter | None,
    bottleneck_size: int,
    seed: int,
    choose: Choose = choose_rows,
) -> AdapterDistillation:
    """Stage 2 at its start: the teachers composed, the student the own adapter or near identity."""
    student = (
        own.copy()
        if own is not None
        else BottleneckAdapter.new(
            encoder.num_layers, encoder.hidden_size, bottleneck_size, seed=seed
        )
    )
    composition: Composition
    if own is None:
        composition = Mixture.of(encoder, teachers, rows, choose=choose)
    else:
        composition = FusedTeachers.of(encoder, teachers, rows, own=own, seed=seed, choose=choose)
    return AdapterDistillation(encoder, student.to(encoder.device), composition)


def imitation_rows(encoder: Encoder, rows: TrainingRows) -> tuple[TrainingRows, Tensor]:
    """The texts that stage 2 trains on: the tenant's and about as many public ones.

    Returns:
        The texts, unlabelled, and each one's row, [texts] int64; -1 for a public text.
    """
    # A fold must not meet as a public text the row that it holds out.
    mine = set(map(tuple, rows.ids))
    public = [ids for ids in encoder.tokenize(public_texts()) if tuple(ids) not in mine]
    copies = max(1, len(public) // len(rows.ids))
    ids = [*list(rows.ids) * copies, *public]
    of_row = torch.cat([torch.arange(len(rows.ids)).repeat(copies), torch.full((len(public),), -1)])
    return TrainingRows(ids, torch.full((len(ids),), -1)), of_row


def public_texts() -> list[str]:
    """Queries of the sample tenants that ship with the project, which are public."""
    samples = resources.files("adapterdistill.samples")
    lines = [
        line
        for folder in sorted(samples.iterdir(), key=lambda entry: entry.name)
        if folder.is_dir() and (file := folder / "queries.jsonl").is_file()
        for line in file.read_text("utf-8").splitlines()
    ]
    return list(dict.fromkeys(json.loads(line)["text"] for line in lines))


def leave_one_out(stages: Sequence[tuple[Composition, HeldOut]]) -> tuple[float, ...]:
    """The mean held-out score without each teacher, minus that with all; nothing is retrained.

    Args:
        stages: compositions of the same teachers: one, or one a fold.
    """
    if not stages:
        return ()
    whole = [held_out(composition) for composition, held_out in stages]

    def change(teacher: int) -> float:
        without = [held_out(composition.without(teacher)) for composition, held_out in stages]
        return (sum(without) - sum(whole)) / len(stages)

    return tuple(change(n) for n in range(len(stages[0][0].shares)))


def imitation_texts(encoder: Encoder, rows: StageRows) -> StageTexts:
    """The own and the public texts of `imitation_rows`, each own one with its row's fold."""
    texts, of_row = imitation_rows(encoder, rows.train)
    folds = None if rows.folds is None else torch.where(of_row < 0, -1, rows.folds[of_row])
    return StageTexts(texts, folds)


class DistilTeachers(Method):
    """Method `adapter_distillation`: stage 2 alone; the adapter itself is served."""

    cost = Cost(forward=1.5, before=15)  # the composition is a wider adapter, trained first

    def texts(self, start: Start, rows: StageRows) -> StageTexts:
        return imitation_texts(start.encoder, rows)

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        return distillation_of(
            start.encoder,
            start.teachers,
            rows,
            own=start.initial,
            bottleneck_size=start.bottleneck_size,
            seed=start.seed,
            choose=start.choose,
        )

    def teaching(self, objective: Objective, scored: Sequence[Scored]) -> Teaching:
        assert isinstance(objective, AdapterDistillation)
        stages = [
            (one.objective.composition, one.held_out)
            for one in scored
            if isinstance(one.objective, AdapterDistillation)
        ]
        return Teaching(tuple(objective.composition.shares.tolist()), leave_one_out(stages))
