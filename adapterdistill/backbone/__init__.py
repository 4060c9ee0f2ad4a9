"""The frozen encoder: found and read by name or folder, and run on packed tokens.

It does not know adapters. They come to it as a `LayerDelta`, a function of a layer's hidden states,
or as a `LayerRule`, which runs the layer. A `Replacement` is a smaller model that reads the same
tokens instead. A `TrainableEncoder` copies the weights for training.
"""

from adapterdistill.backbone.encoder import (
    DTYPES,
    Adaptation,
    Embedder,
    Encoder,
    Replacement,
)
from adapterdistill.backbone.layer import FrozenLayer, LayerDelta, LayerRule, rule_of
from adapterdistill.backbone.packaged import DEFAULT_ENCODER
from adapterdistill.backbone.packed import ChosenTokens, PackedTokens, one_of_few, pack
from adapterdistill.backbone.pooling import Head
from adapterdistill.backbone.resolve import load_configured, load_encoder, load_reader
from adapterdistill.backbone.tokens import TextKind, TextReader

__all__ = [
    "DEFAULT_ENCODER",
    "DTYPES",
    "Adaptation",
    "ChosenTokens",
    "Embedder",
    "Encoder",
    "FrozenLayer",
    "Head",
    "LayerDelta",
    "LayerRule",
    "PackedTokens",
    "Replacement",
    "TextKind",
    "TextReader",
    "load_configured",
    "load_encoder",
    "load_reader",
    "one_of_few",
    "pack",
    "rule_of",
]
