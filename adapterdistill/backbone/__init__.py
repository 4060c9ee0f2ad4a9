"""The frozen encoder: resolved offline first, digested, run on packed tokens.

Does not know adapters: they come to it as a `LayerDelta`, a function of the layer's hidden states,
or as a `LayerRule`, which runs the layer. A `Replacement` stands in the encoder's place.
"""

from adapterdistill.backbone.encoder import DTYPES, Adaptation, Embedder, Encoder, Replacement
from adapterdistill.backbone.layer import FrozenLayer, LayerDelta, LayerRule, rule_of
from adapterdistill.backbone.packed import ChosenTokens, PackedTokens, one_of_few, pack
from adapterdistill.backbone.resolve import DEFAULT_ENCODER, load_encoder

__all__ = [
    "DEFAULT_ENCODER",
    "DTYPES",
    "Adaptation",
    "ChosenTokens",
    "Embedder",
    "Encoder",
    "FrozenLayer",
    "LayerDelta",
    "LayerRule",
    "PackedTokens",
    "Replacement",
    "load_encoder",
    "one_of_few",
    "pack",
    "rule_of",
]
