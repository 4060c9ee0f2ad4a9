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
from dataclasses import dataclass, replace
from functools import cached_property
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
STRENGTH_BESIDE_OWN = 0.4
STRENGTH_ALONE = 1.6
"""Of the mixture, 1 being a teacher's, beside an own adapter and where nothing could train one."""
SCORED_ROWS = 256
"""The mixture is weighed and scaled on these many of the tenant's rows."""
IMITATION_RATE = 2e-3
FEATURE_WEIGHT = 5.0


@dataclass(frozen=True)
class Mixture:
    """The teachers' weighted sum for a tenant's rows, in every layer as strong as a teacher.

    A mean of outputs that point apart is shorter than each of them: 16 teachers' mean moves the
    encoder about half as far as one of them.
    """

    stack: AdapterStack
    weights: Float[Tensor, " N"]
    """Each teacher's share; they sum to 1."""
    scales: Float[Tensor, " L"]
    """The teachers' weighted root mean square output on the rows over that of their sum."""

    @cached_property
    def _outputs(self) -> LayerDelta:
        return self.stack.mean(self.weights)

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        return (self.scales[layer] * self._outputs(layer, x)).to(x.dtype)

    def without(self, teacher: int) -> "Mixture":
        """As if one teacher had never been: the others share its weight."""
        others = [n for n in range(len(self.weights)) if n != teacher]
        kept = self.weights[others]
        return replace(self, stack=self.stack.without(teacher), weights=kept / kept.sum())

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
        scales: list[Tensor] = []  # of the layers so far: each layer meets the mixture's own input

        def measure(layer: int, x: Tensor) -> Tensor:
            mixed = outputs(layer, x)
            each = torch.stack([teacher(layer, x).float().square().mean() for teacher in teachers])
            of_sum = mixed.float().square().mean().clamp(min=1e-12)
            scales.append((shares @ each.sqrt()) / of_sum.sqrt())
            return (scales[layer] * mixed).to(x.dtype)

        encoder.embed(pack(sample.ids, encoder.device), measure)
        return cls(stack, weights, torch.stack(scales))


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


@dataclass(frozen=True)
class Composition:
    """What the student imitates: the own adapter, if any, plus `strength` times the mixture."""

    mixture: Mixture
    own: BottleneckAdapter | None
    strength: float
    """1 adds as much as one teacher does."""

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        taught = self.strength * self.mixture(layer, x)
        return taught if self.own is None else self.own(layer, x) + taught

    def without(self, teacher: int) -> "Composition":
        """As if one teacher had never been."""
        return replace(self, mixture=self.mixture.without(teacher))

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        teachers: Sequence[BottleneckAdapter],
        rows: TrainingRows,
        *,
        own: BottleneckAdapter | None,
        strength: float | None = None,
    ) -> "Composition":
        """Of `teachers` for these training rows; `strength` None: the usual one."""
        if strength is None:
            strength = STRENGTH_ALONE if own is None else STRENGTH_BESIDE_OWN
        return cls(Mixture.of(encoder, teachers, rows), own, strength)


class AdapterDistillation(Objective):
    """The student's distance to a frozen composition: of features and of similarities."""

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
        return FEATURE_WEIGHT * distance + relation_distance(student, teacher)


def distillation_of(
    encoder: Encoder, composition: Composition, *, bottleneck_size: int, seed: int
) -> AdapterDistillation:
    """Stage 2 as this project runs it: the student starts as the own adapter, or near identity."""
    student = (
        composition.own.copy()
        if composition.own is not None
        else BottleneckAdapter.new(
            encoder.num_layers, encoder.hidden_size, bottleneck_size, seed=seed
        )
    )
    return AdapterDistillation(encoder, student.to(encoder.device), composition)


def imitation_rows(encoder: Encoder, rows: TrainingRows) -> tuple[TrainingRows, Tensor]:
    """What stage 2 trains on: the tenant's texts and public ones, about as many of each.

    Returns:
        The texts, unlabelled, and the row that each is, [texts] int64; -1 for a public one.
    """
    # A fold must not meet as a public text the row that it holds out.
    mine = set(map(tuple, rows.ids))
    public = [ids for ids in encoder.tokenize(public_texts()) if tuple(ids) not in mine]
    copies = max(1, len(public) // len(rows.ids))
    ids = [*list(rows.ids) * copies, *public]
    of_row = torch.cat([torch.arange(len(rows.ids)).repeat(copies), torch.full((len(public),), -1)])
    return TrainingRows(ids, torch.full((len(ids),), -1)), of_row


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
