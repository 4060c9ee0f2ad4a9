"""The frozen encoder: resolved offline first, digested, run on packed tokens.

Does not know adapters: they come to it as a `LayerDelta`, a function of the layer's hidden states.
"""

from adapterdistill.backbone.encoder import DTYPES, Encoder, LayerDelta
from adapterdistill.backbone.packed import PackedTokens, pack
from adapterdistill.backbone.resolve import DEFAULT_ENCODER, load_encoder

__all__ = [
    "DEFAULT_ENCODER",
    "DTYPES",
    "Encoder",
    "LayerDelta",
    "PackedTokens",
    "load_encoder",
    "pack",
]
