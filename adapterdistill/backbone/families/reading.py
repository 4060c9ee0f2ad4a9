"""Reading an encoder's tensors by its family's description."""

from collections.abc import Iterable, Mapping
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
from adapterdistill.backbone.families.shapes import (
    DISTANCES_NORM,
    PROJECTIONS,
    check_shapes,
    expected_shapes,
    norms_distances,
)
from adapterdistill.backbone.families.table import FAMILIES, Config, Family, setting
from adapterdistill.backbone.positions import mpnet_buckets
from adapterdistill.backbone.weights import EncoderWeights, LayerWeights


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
    check_shapes(expected_shapes(family, config), found)
    return _Reading(family, config, found).encoder()


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
            scale = (1 + len(compared_kinds(self.config) & set(PROJECTIONS))) ** -0.5
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
        if not norms_distances(self.config):
            return found
        norm = self._module("", DISTANCES_NORM)
        return F.layer_norm(found, (self.size,), *norm, norm_eps(self.family, self.config))

    def _projected(
        self, kind: str, prefix: str, embedded: Tensor, qkv: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """Project the distances as a layer does, by weights of its own or those of the tokens."""
        if kind not in compared_kinds(self.config):
            return None
        if not self.config.get("share_att_key"):
            return F.linear(embedded, *self._module("", prefix + PROJECTIONS[kind]))
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
