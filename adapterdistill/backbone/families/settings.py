"""What a configuration says of an encoder that tensors do not, and what of it cannot be read."""

from collections.abc import Mapping
from typing import Any

from adapterdistill.backbone.families.table import FAMILIES, Config, Family, layer_kinds, setting
from adapterdistill.backbone.layer import ACTIVATIONS
from adapterdistill.backbone.positions import Distances, rotary_frequencies
from adapterdistill.errors import EncoderError


def check_supported(config: Config) -> None:
    """Raise EncoderError if an encoder of this configuration cannot be read."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise EncoderError(
            f"encoder family {config.get('model_type')!r} is not supported: expected one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    for name in ("hidden_size", "num_layers", "num_heads"):
        if not isinstance(setting(config, name), int) or setting(config, name) < 1:
            raise EncoderError(f"encoder's configuration has no {name}: its config.json is damaged")
    if setting(config, "hidden_size") % setting(config, "num_heads"):
        raise EncoderError("encoder's hidden size is not a multiple of its number of heads")
    for name, readable in family.only.items():
        if config.get(name) is not None and config[name] not in readable:
            raise EncoderError(
                f"encoder's setting {name} is {config[name]!r}, which is not supported: expected "
                f"{' or '.join(map(repr, readable)) or 'none'}"
            )
    if activation(family, config) not in ACTIVATIONS:
        raise EncoderError(
            f"encoder needs activation {activation(family, config)!r}: supported are "
            f"{', '.join(ACTIVATIONS)}"
        )
    rotary(family, config)


def activation(family: Family, config: Config) -> str:
    name = str(setting(config, "activation") or family.defaults["activation"])
    return "silu" if name == "swiglu" else name


def norm_eps(family: Family, config: Config) -> float:
    return float(setting(config, "norm_eps") or family.defaults["norm_eps"])


def has_bias(family: Family, config: Config, part: str) -> bool:
    said = family.biased.get(part, True)
    return bool(config.get(said, False)) if isinstance(said, str) else said


def has_segments(family: Family, config: Config) -> bool:
    count = config.get("type_vocab_size", family.defaults.get("type_vocab_size", 0))
    return family.segments is not None and count > 0


def has_positions(family: Family, config: Config) -> bool:
    return family.positions is not None and bool(config.get("position_biased_input", True))


def num_positions(config: Config) -> int:
    """Count the tokens that a row may have, by the configuration of a supported family."""
    family, room = FAMILIES[config["model_type"]], int(setting(config, "max_positions") or 512)
    if has_positions(family, config):
        return room - family.first_position(config)
    if config.get("rotary_scaling_factor"):  # beyond, NomicBERT's depend on the text's length
        room = min(room, int(config.get("max_trained_positions") or room))
    return room


def windows(family: Family, config: Config) -> tuple[int | None, ...]:
    """Say how many tokens to each side each layer attends to; empty if all attend to all."""
    if family.local_theta is None:
        return ()
    own = int(config.get("local_attention", family.defaults["local_attention"])) // 2
    return tuple(own if kind == "sliding_attention" else None for kind in layer_kinds(config))


def distances(family: Family, config: Config) -> Distances | None:
    if family.distances is None or not config.get("relative_attention"):
        return None
    longest = config.get("max_relative_positions", -1)
    longest = longest if longest > 0 else setting(config, "max_positions")
    return Distances(buckets=config.get("position_buckets", -1), longest=longest)


def compared_kinds(config: Config) -> set[str]:
    """Say what DeBERTa compares besides the tokens: c2p, queries with distances; p2c, keys."""
    kinds = config.get("pos_att_type") or []
    return {kind.strip() for kind in (kinds.split("|") if isinstance(kinds, str) else kinds)}


def rotary(family: Family, config: Config) -> tuple[tuple[float, ...], ...]:
    """Compute each layer's rotary frequencies; empty for a family without.

    Raises:
        EncoderError: they are scaled in a way that cannot be read.
    """
    if family.rotary_theta is None:
        return ()
    size = setting(config, "hidden_size") // setting(config, "num_heads")
    scaling = config.get("rope_scaling") or {}
    given = config.get("rope_parameters") or {}

    def frequencies(own: Mapping[str, Any], theta: float) -> tuple[float, ...]:
        kind = own.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
        if kind not in ("default", "ntk") or scaling.get("mixed_b") is not None:
            raise EncoderError(
                f"encoder's rotary positions are scaled by {kind!r} with {scaling or own}, which "
                "is not supported: expected 'default', or 'ntk' without mixed_b"
            )
        factor = float(scaling["factor"]) if kind == "ntk" else None
        return rotary_frequencies(size, float(own.get("rope_theta", theta)), ntk_factor=factor)

    if config.get("head_dim") not in (None, size):
        raise EncoderError(f"encoder's setting head_dim is not {size}, which is not supported")
    theta = float(setting(config, "theta") or family.rotary_theta)
    if family.local_theta is None:
        return (frequencies(given, theta),) * len(family.layers(config))
    local = float(config.get("local_rope_theta") or family.local_theta)
    by_kind = {
        "full_attention": frequencies(given.get("full_attention") or {}, theta),
        "sliding_attention": frequencies(given.get("sliding_attention") or {}, local),
    }
    return tuple(by_kind[kind] for kind in layer_kinds(config))
