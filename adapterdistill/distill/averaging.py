"""The teachers' average: one adapter out of many, in one forward and without any training.

A mean of weights adds too little to the encoder: the teachers' outputs point apart, so their sum
is shorter than each of them. Every layer's up-projection is therefore scaled to the teachers'
strength, layer by layer, on the activations that the averaged adapter itself produces.

Averaged units must mean the same in every teacher. Teachers of one initialisation, which this
project gives to all owners, keep them aligned; others lose about a point of top-1.

Own rows then move the average, but not the whole way: the adapter served lies between the average
and what a few steps from it make (as in Wortsman et al., 2022, "Robust fine-tuning of zero-shot
models"), the nearer to the average the fewer rows there are. The whole way ranks no better and
knows less of what it cannot answer.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.distill.batches import Batch, Choose, TrainingRows, choose_rows
from adapterdistill.distill.composition import mixture_weights
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.method import Method, StageTexts, Start
from adapterdistill.distill.objective import Objective
from adapterdistill.distill.training import Schedule

SAMPLED_ROWS = 128
"""Rows that the teachers are weighed and the average is scaled on."""
MOST_SCALE = 20.0
"""Bound of a layer's scale: teachers that cancel out leave noise, which is not to be blown up."""
_LEAST_RMS = 1e-9
OWN_STEPS = 20
OWN_RATE = 1e-3
PRIOR_ROWS = 6.0
"""Rows of an FAQ that count as much as the average does: see `own_share`."""


class MovedAverage(Objective):
    """Trains a copy of the teachers' average on own rows, and deploys what lies `share` towards it.

    Args:
        share: in [0, 1]; 0 is the average itself.
    """

    def __init__(self, encoder: Encoder, average: BottleneckAdapter, share: float) -> None:
        super().__init__()
        self._encoder = encoder
        self._share = share
        self._average = average.requires_grad_(False)
        self.student = average.copy()

    def forward(self, batch: Batch) -> Tensor:
        embeddings = batch.share(self._encoder.embed(batch.tokens, self.student))
        return prototype_loss(embeddings, batch.labels)

    def deployed(self) -> BottleneckAdapter:
        shares = torch.tensor([1 - self._share, self._share])
        return weighted_average([self._average, self.student], shares).to(self._encoder.device)


class AverageTeachers(Method):
    """Method `averaged_teachers`: the teachers' average, moved by own labelled rows.

    The steps are fixed: with a few rows an FAQ, held-out rows choose their number by chance.
    Without labelled rows nothing is trained. Folds start from the same average: the rows that they
    hold out have decided no more of it than one weight for each teacher.
    """

    starts_from_average = True

    def schedule(self, schedule: Schedule, *, labelled: bool) -> Schedule:
        return replace(
            schedule,
            max_steps=OWN_STEPS if labelled else 0,
            learning_rate=OWN_RATE,
            evaluate_every=OWN_STEPS,
            fixed=True,
        )

    def objective(self, start: Start, rows: TrainingRows, texts: StageTexts) -> Objective:
        assert start.initial is not None
        return MovedAverage(start.encoder, start.initial, own_share(rows))


def own_share(rows: TrainingRows) -> float:
    """How far own steps move the average: n / (n + `PRIOR_ROWS`) with n rows an FAQ on average.

    The mean of a normal distribution whose prior is worth `PRIOR_ROWS` rows is shrunk like this.
    """
    per_faq = len(rows.labels) / len(rows.labels.unique())
    return per_faq / (per_faq + PRIOR_ROWS)


@torch.no_grad()
def averaged_teachers(
    encoder: Encoder,
    teachers: Sequence[BottleneckAdapter],
    rows: TrainingRows,
    *,
    choose: Choose = choose_rows,
) -> tuple[BottleneckAdapter, Float[Tensor, " N"]]:
    """Average the teachers for a tenant: weighed by how each ranks the rows, and rescaled.

    Returns:
        The average, and each teacher's weight in it; the sum is 1.

    Raises:
        ValueError: there is no teacher or no row, or the teachers differ in layers or hidden size.
    """
    if not rows.ids:
        raise ValueError("averaging teachers needs a row of the tenant, got none")
    chosen = choose(rows, batch_size=SAMPLED_ROWS, seed=0, step=0)
    sample = TrainingRows([rows.ids[row] for row in chosen], rows.labels[chosen])
    shares = mixture_weights(encoder, teachers, sample)
    average = weighted_average(teachers, shares)
    rescale(encoder, average, teachers, sample)
    return average, shares


@torch.no_grad()
def weighted_average(
    adapters: Sequence[BottleneckAdapter], weights: Float[Tensor, " N"]
) -> BottleneckAdapter:
    """The adapter whose weights are the weighted sum; narrower bottlenecks have zero units added.

    Raises:
        ValueError: there is no adapter, or they differ in layers or hidden size.
    """
    shapes = {(adapter.num_layers, adapter.hidden_size) for adapter in adapters}
    if len(shapes) != 1:
        raise ValueError(f"adapters to average need one shape, got {sorted(shapes)}")
    widest = max(adapter.bottleneck_size for adapter in adapters)

    def padded(adapter: BottleneckAdapter) -> tuple[Tensor, ...]:
        missing = widest - adapter.bottleneck_size
        return (
            F.pad(adapter.down_weight, (0, 0, 0, missing)),
            F.pad(adapter.down_bias, (0, missing)),
            F.pad(adapter.up_weight, (0, missing)),
            adapter.up_bias,
        )

    parts = zip(*map(padded, adapters), strict=True)
    return BottleneckAdapter(
        *(torch.einsum("n,n...->...", weights.to(part[0]), torch.stack(part)) for part in parts)
    )


@torch.no_grad()
def rescale(
    encoder: Encoder,
    average: BottleneckAdapter,
    teachers: Sequence[BottleneckAdapter],
    rows: TrainingRows,
) -> None:
    """Scale each layer's up-projection of `average`, in place, to the teachers' mean RMS output.

    Layers follow in forward order, each on what the scaled layers before it produce. The scale is
    mean_n RMS(u_n(x)) / RMS(u(x)), at most `MOST_SCALE`.
    """

    def scaled(layer: int, x: Tensor) -> Tensor:
        of_teachers = torch.stack([_rms(teacher(layer, x)) for teacher in teachers]).mean()
        scale = of_teachers / _rms(average(layer, x)).clamp(min=_LEAST_RMS)
        average.up_weight[layer] *= scale.clamp(max=MOST_SCALE)
        average.up_bias[layer] *= scale.clamp(max=MOST_SCALE)
        output: Tensor = average(layer, x)
        return output

    encoder.embed(pack(rows.ids, encoder.device), scaled)


def _rms(output: Tensor) -> Tensor:
    rms: Tensor = output.float().square().mean().sqrt()
    return rms
