"""Compositions of teachers: the model that the student of stage 2 imitates.

If queries are labelled, AdapterFusion over the teachers is trained on them for a few steps, and the
own adapter is added. The own adapter is not fused: it was trained on these very rows, so that the
fusion would learn little from them beside it. Without labelled queries the composition is a mixture
of the teachers, and nothing is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder, LayerDelta, pack
from adapterdistill.distill.adapter_fusion import AdapterFusion
from adapterdistill.distill.batches import Choose, TrainingRows, choose_rows
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.training import Schedule, train

FUSION_RATE = 5e-4
FUSION_STEPS = 10
"""More steps overfit one to three rows an FAQ."""
FUSION_STRENGTH = 0.8
OWN_STRENGTH = 0.4
"""Factors of the fusion and the own adapter in their sum. The two point in different directions, so
that the sum is about as strong as each."""
SHARPNESS = 1.0
"""Sharpness of the softmax over teachers; 0 would give their mean."""
SAMPLED_ROWS = 256
"""Rows of the tenant on which the mixture is weighed and scaled and attention is measured."""


@runtime_checkable
class Composition(Protocol):
    """A frozen `LayerDelta` made of teachers."""

    def __call__(self, layer: int, x: Tensor) -> Tensor: ...

    @property
    def shares(self) -> Float[Tensor, " N"]:
        """Each teacher's share; the sum is 1."""

    def without(self, teacher: int) -> "Composition":
        """The composition without one teacher, otherwise unchanged."""


@dataclass(frozen=True)
class FusedTeachers:
    """A trained fusion of the teachers, and the own adapter beside it."""

    stack: AdapterStack
    fusion: Fusion
    own: BottleneckAdapter
    shares: Float[Tensor, " N"]
    """Each teacher's attention, the mean over the rows' tokens and the layers."""

    @cached_property
    def _outputs(self) -> LayerDelta:
        return self.fusion.over(self.stack)

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        own: Tensor = OWN_STRENGTH * self.own(layer, x)
        return own + FUSION_STRENGTH * self._outputs(layer, x)

    def without(self, teacher: int) -> "FusedTeachers":
        """The others share the teacher's attention, token by token."""
        return replace(
            self, stack=self.stack.without(teacher), shares=_shares_without(self.shares, teacher)
        )

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        teachers: Sequence[BottleneckAdapter],
        rows: TrainingRows,
        *,
        own: BottleneckAdapter,
        seed: int,
        choose: Choose = choose_rows,
    ) -> "FusedTeachers":
        """Train the fusion on the rows."""
        stack = AdapterStack.of(teachers, dtype=encoder.dtype, device=encoder.device)
        fusion = Fusion.new(encoder.num_layers, encoder.hidden_size, seed=seed)
        objective = AdapterFusion(encoder, stack, fusion.to(encoder.device))
        schedule = Schedule(max_steps=FUSION_STEPS, learning_rate=FUSION_RATE)
        train(objective, rows, schedule, seed=seed, device=encoder.device, choose=choose)
        fusion.requires_grad_(False)
        return cls(stack, fusion, own, attention_shares(encoder, stack, fusion, rows))


@torch.no_grad()
def attention_shares(
    encoder: Encoder, stack: AdapterStack, fusion: Fusion, rows: TrainingRows
) -> Float[Tensor, " N"]:
    """Each adapter's attention, the mean over layers and the tokens of some of the rows."""
    sums, fused = torch.zeros(stack.num_adapters), fusion.over(stack)

    def measure(layer: int, x: Tensor) -> Tensor:
        sums.add_(fusion.attention(layer, x, stack).float().sum(0).cpu())
        return fused(layer, x)

    encoder.embed(pack(_sample(rows).ids, encoder.device), measure)
    # The sum differs a little from the number of tokens: weights are rounded to its dtype.
    return sums / sums.sum()


@dataclass(frozen=True)
class Mixture:
    """The teachers' weighted sum for a tenant's rows, in every layer of a teacher's strength.

    A mean of outputs that point apart is shorter than each of them: 16 teachers' mean moves the
    encoder about half as far as one of them.
    """

    stack: AdapterStack
    shares: Float[Tensor, " N"]
    """Each teacher's weight; they sum to 1."""
    scales: Float[Tensor, " L"]
    """The teachers' weighted root mean square output on the rows over that of their sum."""

    @cached_property
    def _outputs(self) -> LayerDelta:
        return self.stack.mean(self.shares)

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        return (self.scales[layer] * self._outputs(layer, x)).to(x.dtype)

    def without(self, teacher: int) -> "Mixture":
        """The others share the teacher's weight."""
        return replace(
            self, stack=self.stack.without(teacher), shares=_shares_without(self.shares, teacher)
        )

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        encoder: Encoder,
        teachers: Sequence[BottleneckAdapter],
        rows: TrainingRows,
        *,
        choose: Choose = choose_rows,
    ) -> "Mixture":
        """Weigh and scale `teachers` on some of the rows."""
        sample = _sample(rows, choose)
        return cls.of_shares(encoder, teachers, mixture_weights(encoder, teachers, sample), sample)

    @classmethod
    @torch.no_grad()
    def of_shares(
        cls,
        encoder: Encoder,
        teachers: Sequence[BottleneckAdapter],
        weights: Float[Tensor, " N"],
        sample: TrainingRows,
    ) -> "Mixture":
        """Scale `teachers`, weighed by `weights`, on the rows of `sample`."""
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

    A softmax of minus the teachers' prototype losses, standardised over the teachers. Shares are
    equal if no row has another of its FAQ.
    """
    labels = rows.labels.to(encoder.device)
    losses = torch.stack([prototype_loss(encoder.embed_ids(rows.ids, t), labels) for t in teachers])
    spread = losses.std(correction=0)
    if not bool(spread > 0):
        return torch.full((len(teachers),), 1 / len(teachers))
    return torch.softmax(SHARPNESS * (losses.mean() - losses) / spread, 0).float().cpu()


def _sample(rows: TrainingRows, choose: Choose = choose_rows) -> TrainingRows:
    chosen = choose(rows, batch_size=SAMPLED_ROWS, seed=0, step=0)
    return TrainingRows([rows.ids[row] for row in chosen], rows.labels[chosen])


def _shares_without(shares: Tensor, teacher: int) -> Tensor:
    """The others' shares without one teacher."""
    kept = torch.cat([shares[:teacher], shares[teacher + 1 :]])
    return kept / kept.sum()
