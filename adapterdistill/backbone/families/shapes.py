"""The tensors that an encoder's configuration asks for."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from adapterdistill.backbone.families.settings import (
    compared_kinds,
    distances,
    has_bias,
    has_positions,
    has_segments,
)
from adapterdistill.backbone.families.table import Config, Family, setting
from adapterdistill.errors import EncoderError

Shape = tuple[int | None, ...]
"""Sizes of a tensor's axes; None for any."""

DISTANCES_NORM = "encoder.LayerNorm"
PROJECTIONS = {"c2p": "attention.self.pos_key_proj", "p2c": "attention.self.pos_query_proj"}
"""What projects the distances that queries or keys are compared with, in a layer."""


def expected_shapes(family: Family, config: Config) -> dict[str, Shape]:
    """Name every tensor that an encoder needs, without what precedes the encoder's names."""
    found: dict[str, Shape] = {}

    def module(part: str, names: Sequence[str], rows: int | None, *columns: int | None) -> None:
        own = None if rows is None else rows // len(names)
        for name in names:
            found[f"{name}.weight"] = (own, *columns)
            if has_bias(family, config, part):
                found[f"{name}.bias"] = (own,)

    size, inner = setting(config, "hidden_size"), setting(config, "inner_size")
    embedding = config.get("embedding_size", size)
    found[f"{family.words}.weight"] = (None, embedding)
    if has_positions(family, config):
        found[f"{family.positions}.weight"] = (None, embedding)
    if has_segments(family, config):
        found[f"{family.segments}.weight"] = (None, embedding)
    module("embedding_norm", [family.embedding_norm], embedding)
    if family.projection and embedding != size:
        module("projection", [family.projection], size, embedding)
    elif embedding != size:
        raise EncoderError("encoder's embedding_size is not its hidden_size: not supported")
    if family.final_norm:
        module("final_norm", [family.final_norm], size)
    if family.relative_bias:
        found[f"{family.relative_bias}.weight"] = (32, setting(config, "num_heads"))
    kinds = compared_kinds(config)
    if (relative := distances(family, config)) is not None:
        found[f"{family.distances}.weight"] = (2 * relative.span, size)
        if norms_distances(config):
            module("", [DISTANCES_NORM], size)
    for i, prefix in enumerate(family.layers(config)):
        module("qkv", [prefix + name for name in family.qkv], 3 * size, size)
        module("attention", [prefix + family.attention], size, size)
        if family.first_attention_norm or i:
            module("attention_norm", [prefix + family.attention_norm], size)
        wide = None if inner is None else inner * (2 if family.gated else 1)
        module("up", [prefix + name for name in family.up], wide, size)
        module("down", [prefix + family.down], size, inner)
        module("ffn_norm", [prefix + family.ffn_norm], size)
        if relative is not None and not config.get("share_att_key"):
            for kind in kinds & set(PROJECTIONS):
                module("", [prefix + PROJECTIONS[kind]], size, size)
    return found


def norms_distances(config: Config) -> bool:
    return "layer_norm" in str(config.get("norm_rel_ebd", "none"))


def check_shapes(expected: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> None:
    """Raise EncoderError for a tensor that is missing or of another shape."""
    missing = sorted(name for name in expected if name not in tensors)
    if missing:
        # What is missing would be random, and differ in every process.
        raise EncoderError(
            f"encoder's weights lack {len(missing)} tensors that its configuration asks for, such "
            f"as {missing[0]}"
        )
    for name, shape in expected.items():
        found = tuple(tensors[name].shape)
        if len(found) != len(shape) or any(
            wanted not in (None, size) for wanted, size in zip(shape, found, strict=True)
        ):
            raise EncoderError(
                f"encoder's tensor {name} has shape {list(found)}, which its configuration "
                "contradicts"
            )
