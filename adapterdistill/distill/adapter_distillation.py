"""Stage 2 of AdapterDistillation (arXiv 2312.16261): teachers' knowledge into one adapter.

The teachers' mixture, weighted by how well each ranks the tenant's own rows, is added to the own
adapter; a student that starts as the own adapter learns to give what this composition gives, layer
by layer and in the similarities between texts, on the tenant's texts and as many public ones. Each
side runs on its own activations: a student that imitates inside the other's pass never sees those
that it will be served with. Labels only weigh the teachers, so few rows cannot be overfitted, and
nothing of the composition is trained: a step costs little more than an own adapter's.

The paper's equations were not to be had; this instance is this project's. The form that its figure
draws, with attention over the teachers trained beside the student, is `attention_distillation`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from jaxtyping import Float
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder, LayerDelta, pack
from adapterdistill.distill.batches import Batch, TrainingRows, choose_rows
from adapterdistill.distill.losses import feature_distance, prototype_loss, relation_distance
from adapterdistill.distill.method import Objective, Recording

SHARPNESS = 1.0
"""Of the softmax over teachers; 0 would be their mean."""
SCORED_ROWS = 256
"""The mixture is weighed and scaled on these many of the tenant's rows."""
IMITATION_RATE = 2e-3
FEATURE_WEIGHT = 5.0


class AdapterDistillation(Objective):
    """The student's distance to a frozen composition: of features and of similarities."""

    def __init__(
        self, encoder: Encoder, student: BottleneckAdapter, composition: LayerDelta
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
        return FEATURE_WEIGHT * distance + relation_distance(student, teacher)


@dataclass(frozen=True)
class Mixture:
    """The teachers' weighted sum for a tenant's rows, in every layer as strong as a teacher.

    A mean of outputs that point apart is shorter than each of them: 16 teachers' mean moves the
    encoder about half as far as one of them.
    """

    weights: Float[Tensor, " N"]
    """Each teacher's share; they sum to 1."""
    scales: Float[Tensor, " L"]
    """The teachers' weighted root mean square output on the rows over that of their sum."""
    outputs: LayerDelta
    """sum_n weights_n u_n, unscaled."""

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        return (self.scales[layer] * self.outputs(layer, x)).to(x.dtype)

    @classmethod
    @torch.no_grad()
    def of(
        cls, encoder: Encoder, teachers: Sequence[BottleneckAdapter], rows: TrainingRows
    ) -> "Mixture":
        """Weigh and scale `teachers` on at most `SCORED_ROWS` of the rows."""
        chosen = choose_rows(rows, batch_size=SCORED_ROWS, seed=0, step=0)
        sample = TrainingRows([rows.ids[row] for row in chosen], rows.labels[chosen])
        weights = mixture_weights(encoder, teachers, sample)
        stack = AdapterStack.of(teachers, dtype=encoder.dtype, device=encoder.device)
        outputs, shares = stack.mean(weights), weights.to(encoder.device)
        scales: list[Tensor] = []

        def measure(layer: int, x: Tensor) -> Tensor:
            mixed = outputs(layer, x)
            each = torch.stack([teacher(layer, x).float().square().mean() for teacher in teachers])
            of_sum = mixed.float().square().mean().clamp(min=1e-12)
            scales.append((shares @ each.sqrt()) / of_sum.sqrt())
            return (scales[layer] * mixed).to(x.dtype)

        encoder.embed(pack(sample.ids, encoder.device), measure)
        return cls(weights, torch.stack(scales), outputs)


@torch.no_grad()
def mixture_weights(
    encoder: Encoder, teachers: Sequence[BottleneckAdapter], rows: TrainingRows
) -> Float[Tensor, " N"]:
    """Each teacher's share by how well it alone ranks the rows.

    A softmax of minus the teachers' prototype losses, standardised over the teachers. All the same
    where no row has another of its FAQ.
    """
    labels = rows.labels.to(encoder.device)
    losses = torch.stack([prototype_loss(encoder.embed_ids(rows.ids, t), labels) for t in teachers])
    spread = losses.std(correction=0)
    if not bool(spread > 0):
        return torch.full((len(teachers),), 1 / len(teachers))
    return torch.softmax(SHARPNESS * (losses.mean() - losses) / spread, 0).float().cpu()


def composition_of(
    mixture: LayerDelta, own: BottleneckAdapter | None, *, strength: float
) -> LayerDelta:
    """What the student imitates: the own adapter, if any, plus `strength` times the mixture.

    Args:
        strength: 1 adds as much as one teacher does.
    """
    if own is None:
        return lambda layer, x: strength * mixture(layer, x)
    return lambda layer, x: own(layer, x) + strength * mixture(layer, x)


def distillation_of(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    rows: TrainingRows,
    *,
    own: BottleneckAdapter | None,
    strength: float,
    bottleneck_size: int,
    seed: int,
) -> AdapterDistillation:
    """Stage 2 as this project runs it, on the encoder's device.

    Args:
        rows: the tenant's training rows, to weigh the teachers by.
        own: where the student starts and what it keeps; None where nothing could train one.
    """
    student = (
        own.copy()
        if own is not None
        else BottleneckAdapter.new(
            encoder.num_layers, encoder.hidden_size, bottleneck_size, seed=seed
        )
    )
    mixture = Mixture.of(encoder, teachers, rows)
    composition = composition_of(mixture, own, strength=strength)
    return AdapterDistillation(encoder, student.to(encoder.device), composition)


def imitation_rows(encoder: Encoder, rows: TrainingRows) -> TrainingRows:
    """What stage 2 trains on: the tenant's texts and public ones, about as many of each."""
    public = encoder.tokenize(public_texts())
    ids = [*list(rows.ids) * max(1, len(public) // len(rows.ids)), *public]
    return TrainingRows(ids, torch.full((len(ids),), -1))


def public_texts() -> list[str]:
    """Queries of the sample tenants that ship here: texts that are nobody's secret."""
    samples = resources.files("adapterdistill.samples")
    lines = [
        line
        for folder in sorted(samples.iterdir(), key=lambda entry: entry.name)
        if folder.is_dir() and (file := folder / "queries.jsonl").is_file()
        for line in file.read_text("utf-8").splitlines()
    ]
    return list(dict.fromkeys(json.loads(line)["text"] for line in lines))
