"""Served forms of random weights, strong enough that a wrong one changes every embedding."""

from dataclasses import replace

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bundle import BundledForm, ProvenForm
from adapterdistill.checkpoint import golden_vectors
from adapterdistill.distill.forms import (
    ConditionalSettings,
    FormSettings,
    LightSettings,
    ServedForm,
    pack_form,
)
from tests.serving_store import MadeTenant, make_tenant

LIGHT = LightSettings(body="transformer", layers=1, heads=2, lstm_size=1)
FORMS: dict[str, FormSettings] = {
    "conditional": ConditionalSettings(bottleneck_size=4, speed=2.0, least=3, to_all=True),
    "transformer": LIGHT,
    "bilstm": LIGHT.model_copy(update={"body": "bilstm", "lstm_size": 6}),
}


def random_form(encoder: Encoder, settings: FormSettings, *, seed: int) -> ServedForm:
    model = settings.new(encoder, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return ServedForm(settings, model.requires_grad_(False))


def make_form_tenant(encoder: Encoder, tenant: str, form: str, *, seed: int) -> MadeTenant:
    """Like `make_tenant`, served by a random form."""
    made = make_tenant(encoder, tenant, seed=seed)
    served = random_form(encoder, FORMS[form], seed=seed)
    golden = golden_vectors(encoder, served.embedder)
    proven = ProvenForm(kind=served.settings.kind, golden=golden)
    bundled = BundledForm(proven, pack_form(served))
    return MadeTenant(tenant, served.embedder, replace(made.bundle, form=bundled))
