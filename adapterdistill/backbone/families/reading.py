"""Reading an encoder's tensors by its family's description."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from adapterdistill.backbone.families.settings import (
    activation,
    compared_kinds,
    distances,
    has_bias,
    has_positions,
    has_segments,
    norm_eps,
    num_positions,
    rotary,
    windows,
)
from adapterdistill.backbone.families.table import FAMILIES, Config, Family, setting
from adapterdistill.backbone.positions import mpnet_buckets
from adapterdistill.backbone.weights import EncoderWeights, LayerWeights
from adapterdistill.errors import EncoderError

Shape = tuple[int | None, ...]
"""Sizes of a tensor's axes; None for any."""


def open_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Map the tensors of safetensors files. They change with the files.

    Raises:
        OSError, SafetensorError: a file is missing or damaged.
    """
    return {name: part for file in files for name, part in load_file(file).items()}


def read_weights(config: Config, tensors: Mapping[str, Tensor]) -> EncoderWeights:
    """Read an encoder whose configuration `check_supported` accepted, in float32.

    Tensors that need no change share memory with `tensors`.

    Raises:
        EncoderError: a tensor is missing or of another shape than the configuration says.
    """
    family = FAMILIES[config["model_type"]]
    found = _own_tensors(family, tensors)
    _check(expected_shapes(family, config), found)
    return _Reading(family, config, found).encoder()


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
        if _norms_distances(config):
            module("", [_DISTANCES_NORM], size)
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
            for kind in kinds & set(_PROJECTIONS):
                module("", [prefix + _PROJECTIONS[kind]], size, size)
    return found


_DISTANCES_NORM = "encoder.LayerNorm"
_PROJECTIONS = {"c2p": "attention.self.pos_key_proj", "p2c": "attention.self.pos_query_proj"}


def _norms_distances(config: Config) -> bool:
    return "layer_norm" in str(config.get("norm_rel_ebd", "none"))


def _own_tensors(family: Family, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the encoder's tensors from the encoder on: a model with a head puts a name before."""
    # Checkpoints of TensorFlow's time have their LayerNorms' first names.
    renamed = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in tensors.items()
    }
    words = f"{family.words}.weight"
    prefix = next((name.removesuffix(words) for name in renamed if name.endswith(words)), "")
    return {
        name.removeprefix(prefix): part for name, part in renamed.items() if name.startswith(prefix)
    }


def _check(expected: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> None:
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


class _Reading:
    """One encoder's configuration, and its tensors, all of which are there."""

    def __init__(self, family: Family, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.family, self.config, self.tensors = family, config, tensors
        self.size: int = setting(config, "hidden_size")

    def encoder(self) -> EncoderWeights:
        family, config = self.family, self.config
        words, positions = self._embeddings()
        room = num_positions(config) if positions is None else len(positions)
        norm = self._module("embedding_norm", family.embedding_norm)
        nothing: tuple[Tensor | None, Tensor | None] = (None, None)
        projection = final = nothing
        if family.projection and words.shape[1] != self.size:
            projection = self._module("projection", family.projection)
        if family.final_norm:
            final = self._module("final_norm", family.final_norm)
        prefixes = family.layers(config)
        embedded = self._embedded_distances()
        layers = {
            prefix: self._layer(prefix, embedded, first=i == 0)
            for i, prefix in enumerate(dict.fromkeys(prefixes))
        }
        return EncoderWeights(
            words=words,
            positions=positions,
            embedding_norm_weight=norm[0],
            embedding_norm_bias=norm[1],
            layers=tuple(layers[prefix] for prefix in prefixes),
            num_positions=room,
            num_heads=setting(config, "num_heads"),
            norm_eps=norm_eps(family, config),
            activation=activation(family, config),
            projection_weight=projection[0],
            projection_bias=projection[1],
            final_norm_weight=final[0],
            final_norm_bias=final[1],
            relative_bias=self._relative_bias(room),
            gated=family.gated,
            rotary=rotary(family, config),
            windows=windows(family, config),
            distances=distances(family, config),
        )

    def _embeddings(self) -> tuple[Tensor, Tensor | None]:
        """Read words and positions; the first segment is added to the latter, or to the former."""
        family, config = self.family, self.config
        words, positions = self._tensor(f"{family.words}.weight"), None
        if has_positions(family, config):
            first = family.first_position(config)
            positions = self._tensor(f"{family.positions}.weight")[first:]
        if has_segments(family, config):
            segment = self._tensor(f"{family.segments}.weight")[0]
            if positions is None:
                words = words + segment
            else:
                positions = positions + segment
        return words, positions

    def _layer(self, prefix: str, embedded: Tensor | None, *, first: bool) -> LayerWeights:
        family = self.family

        def module(part: str, *names: str) -> tuple[Tensor, Tensor]:
            return self._module(part, *(prefix + name for name in names))

        qkv_weight, qkv_bias = module("qkv", *family.qkv)
        up_weight, up_bias = module("up", *family.up)
        if family.gates_first:
            up_weight, up_bias = _halves_swapped(up_weight), _halves_swapped(up_bias)
        attention, down = module("attention", family.attention), module("down", family.down)
        norm: tuple[Tensor | None, Tensor | None] = (None, None)
        if family.first_attention_norm or not first:
            norm = module("attention_norm", family.attention_norm)
        ffn_norm = module("ffn_norm", family.ffn_norm)
        keys = queries = None
        if embedded is not None:
            keys = self._projected("c2p", prefix, embedded, (qkv_weight, qkv_bias))
            queries = self._projected("p2c", prefix, embedded, (qkv_weight, qkv_bias))
        if family.distances is not None:
            # Scores are divided by the number of things compared: the queries are, here.
            scale = (1 + len(compared_kinds(self.config) & set(_PROJECTIONS))) ** -0.5
            qkv_weight, qkv_bias = (
                torch.cat([part[: self.size] * scale, part[self.size :]])
                for part in (qkv_weight, qkv_bias)
            )
            queries = None if queries is None else queries * scale
        return LayerWeights(
            qkv_weight=qkv_weight,
            qkv_bias=qkv_bias,
            attention_weight=attention[0],
            attention_bias=attention[1],
            attention_norm_weight=norm[0],
            attention_norm_bias=norm[1],
            up_weight=up_weight,
            up_bias=up_bias,
            down_weight=down[0],
            down_bias=down[1],
            ffn_norm_weight=ffn_norm[0],
            ffn_norm_bias=ffn_norm[1],
            position_keys=keys,
            position_queries=queries,
        )

    def _embedded_distances(self) -> Tensor | None:
        """Read DeBERTa's embeddings of distances, [distances, hidden]."""
        if distances(self.family, self.config) is None:
            return None
        found = self._tensor(f"{self.family.distances}.weight")
        if not _norms_distances(self.config):
            return found
        norm = self._module("", _DISTANCES_NORM)
        return F.layer_norm(found, (self.size,), *norm, norm_eps(self.family, self.config))

    def _projected(
        self, kind: str, prefix: str, embedded: Tensor, qkv: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """Project the distances as a layer does, by weights of its own or those of the tokens."""
        if kind not in compared_kinds(self.config):
            return None
        if not self.config.get("share_att_key"):
            return F.linear(embedded, *self._module("", prefix + _PROJECTIONS[kind]))
        first = self.size if kind == "c2p" else 0  # keys, or queries
        weight, bias = (part[first : first + self.size] for part in qkv)
        return F.linear(embedded, weight, bias)

    def _relative_bias(self, room: int) -> Tensor | None:
        """Compute MPNet's bias of each pair of positions, [heads, room, room]."""
        if self.family.relative_bias is None:
            return None
        table = self._tensor(f"{self.family.relative_bias}.weight")
        return table[mpnet_buckets(room, len(table))].permute(2, 0, 1).contiguous()

    def _module(self, part: str, *names: str) -> tuple[Tensor, Tensor]:
        """Read weight and bias of modules, joined; zeros for a bias that there is not."""
        weight = _joined([self._tensor(f"{name}.weight") for name in names])
        if not has_bias(self.family, self.config, part):
            return weight, weight.new_zeros(len(weight))
        return weight, _joined([self._tensor(f"{name}.bias") for name in names])

    def _tensor(self, name: str) -> Tensor:
        return self.tensors[name].float()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _halves_swapped(x: Tensor) -> Tensor:
    return torch.cat(x.tensor_split(2)[::-1])
