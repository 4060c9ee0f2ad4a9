"""The frozen encoder: resolved offline first, digested, run on packed tokens.

Does not know adapters: they come to it as a `LayerDelta`, a function of the layer's hidden states,
or as a `LayerRule`, which runs the layer.
"""

from adapterdistill.backbone.encoder import DTYPES, Adaptation, Encoder
from adapterdistill.backbone.layer import FrozenLayer, LayerDelta, LayerRule, rule_of
from adapterdistill.backbone.packed import ChosenTokens, PackedTokens, pack
from adapterdistill.backbone.resolve import DEFAULT_ENCODER, load_encoder

__all__ = [
    "DEFAULT_ENCODER",
    "DTYPES",
    "Adaptation",
    "ChosenTokens",
    "Encoder",
    "FrozenLayer",
    "LayerDelta",
    "LayerRule",
    "PackedTokens",
    "load_encoder",
    "pack",
    "rule_of",
]
