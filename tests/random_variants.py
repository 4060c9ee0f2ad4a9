"""Variants of random weights, strong enough that a wrong one changes every embedding."""

from dataclasses import replace

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import golden_vectors
from adapterdistill.distill.conditional_distillation import ConditionalSettings
from adapterdistill.distill.method import Variant, VariantSettings
from adapterdistill.distill.multitask_kd.method import LightSettings, TaskHead
from adapterdistill.distill.variants import pack_variant
from adapterdistill.store.bundle import BundledVariant, ProvenVariant
from tests.serving_store import MadeTenant, make_tenant

LIGHT = LightSettings(body="transformer", layers=1, heads=2, lstm_size=1)
VARIANTS: dict[str, VariantSettings] = {
    "conditional": ConditionalSettings(bottleneck_size=4, speed=2.0, least=3, to_all=True),
    "transformer": LIGHT,
    "bilstm": LIGHT.model_copy(update={"body": "bilstm", "lstm_size": 6}),
}


def random_variant(encoder: Encoder, settings: VariantSettings, *, seed: int) -> Variant:
    model = settings.new(encoder, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return Variant(settings, model.requires_grad_(False))


TASKS = (
    TaskHead(name="mood", classes=("bad", "good", "unclear"), pairs=False),
    TaskHead(name="same", classes=("no", "yes"), pairs=True),
)


def make_variant_tenant(
    encoder: Encoder, tenant: str, variant: str, *, seed: int, tasks: tuple[TaskHead, ...] = ()
) -> MadeTenant:
    """Like `make_tenant`, served by a random variant, which answers these tasks."""
    made = make_tenant(encoder, tenant, seed=seed)
    settings = VARIANTS[variant]
    if tasks:
        settings = settings.model_copy(update={"tasks": tasks})
    served = random_variant(encoder, settings, seed=seed)
    golden = golden_vectors(encoder, served.embedder)
    proven = ProvenVariant(kind=served.settings.kind, golden=golden)
    bundled = BundledVariant(proven, pack_variant(served))
    return MadeTenant(tenant, served.embedder, replace(made.bundle, variant=bundled))
