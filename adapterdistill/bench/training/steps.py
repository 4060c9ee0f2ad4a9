"""The training steps that are timed, and the plain formula of fusion that they must equal."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder, LayerDelta
from adapterdistill.distill.adapter_distillation import AdapterDistillation
from adapterdistill.distill.adapter_fusion import AdapterFusion
from adapterdistill.distill.attention_distillation import AttentionDistillation
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.composition import FusedTeachers
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.objective import Objective, OwnAdapter

OWN = "own adapter"
FUSION = "AdapterFusion"
PLAIN = "AdapterFusion, plain formula"
STUDENT = "student against a frozen fusion"
ATTENTION = "attention and student trained together"
STAGE_2 = "stage 2 of AdapterDistillation"


class PlainFusion(AdapterFusion):
    """AdapterFusion as published: keys and values of every adapter's output, one tensor each."""

    def deployed(self) -> LayerDelta:
        return lambda layer, x: plain_fusion(layer, x, self.fusion, self._adapters)


def plain_fusion(layer: int, x: Tensor, fusion: Fusion, stack: AdapterStack) -> Tensor:
    """Pfeiffer et al. (2021), eq. 3, term by term, through [tokens, N, hidden]."""
    down, up = stack.down[layer], stack.up[layer]
    a = F.relu(torch.einsum("td,nrd->tnr", x, down) + stack.down_bias[layer])
    u = torch.einsum("tnr,nrd->tnd", a, up) + stack.up_bias[layer]
    query = F.linear(
        x, fusion.query_weight[layer].to(x.dtype), fusion.query_bias[layer].to(x.dtype)
    )
    key = F.linear(u, fusion.key_weight[layer].to(x.dtype))
    value = F.linear(u, fusion.value_weight[layer].to(x.dtype))
    weights = (query[:, None] * key).sum(-1).softmax(-1)
    return (weights[..., None] * value).sum(1)


class Step:
    """One objective with its optimiser: each call is a whole training step."""

    def __init__(self, objective: Objective, batch: Batch) -> None:
        self.objective = objective
        self._batch = batch
        groups: Any = objective.parameter_groups(1e-4)
        self._optimizer = torch.optim.AdamW(groups, fused=True)

    def __call__(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self.objective(self._batch).backward()
        self._optimizer.step()


def build_steps(
    encoder: Encoder, teachers: Sequence[BottleneckAdapter], batch: Batch
) -> dict[str, Step]:
    """One step of each kind over these teachers."""
    shape = (encoder.num_layers, encoder.hidden_size)
    stack = AdapterStack.of(teachers, dtype=encoder.dtype, device=encoder.device)

    def student() -> BottleneckAdapter:
        width = teachers[0].bottleneck_size
        return BottleneckAdapter.new(*shape, width, seed=0).to(encoder.device)

    def fusion() -> Fusion:
        return Fusion.new(*shape, seed=0).to(encoder.device)

    even = torch.full((stack.num_adapters,), 1 / stack.num_adapters)
    frozen = FusedTeachers(stack, fusion().requires_grad_(False), student(), even)
    objectives: dict[str, Objective] = {
        OWN: OwnAdapter(encoder, student()),
        FUSION: AdapterFusion(encoder, stack, fusion()),
        STUDENT: AdapterDistillation(encoder, student(), frozen),
        ATTENTION: AttentionDistillation(encoder, student(), stack, fusion()),
        PLAIN: PlainFusion(encoder, stack, fusion()),
    }
    return {name: Step(objective, batch) for name, objective in objectives.items()}


def disagreement(
    encoder: Encoder, teachers: Sequence[BottleneckAdapter], batch: Batch
) -> dict[str, float]:
    """Largest difference between the factored and the plain formula, in float32: of outputs, and
    of gradients relative to the largest gradient."""
    stack = AdapterStack.of(teachers, dtype=encoder.dtype, device=encoder.device)
    outputs, gradients = [], []
    for kind in (AdapterFusion, PlainFusion):
        fusion = wide_fusion(encoder)
        objective = kind(encoder, stack, fusion)
        embeddings = encoder.embed(batch.tokens, objective.deployed())
        prototype_loss(embeddings, batch.labels).backward()
        outputs.append(embeddings.detach())
        gradients.append([p.grad for p in fusion.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(fusion.parameters()))
    pairs = list(zip(*gradients, strict=True))
    largest = max(float(g.abs().max()) for g, _ in pairs)
    return {
        "outputs": float((outputs[0] - outputs[1]).abs().max()),
        "gradients": max(float((a - b).abs().max()) for a, b in pairs) / largest,
    }


def wide_fusion(encoder: Encoder) -> Fusion:
    """A fusion whose attention tells adapters apart, as at initialisation it hardly does."""
    fusion = Fusion.new(encoder.num_layers, encoder.hidden_size, seed=1).to(encoder.device)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        fusion.query_weight.mul_(3)
        fusion.key_weight.mul_(3)
        fusion.query_bias.copy_(torch.randn(fusion.query_bias.shape, generator=generator) * 0.1)
        noise = torch.randn(fusion.value_weight.shape, generator=generator) * 0.02
        fusion.value_weight.add_(noise.to(fusion.value_weight.device))
    return fusion
