"""One description a family. The names are those of the published files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Config = Mapping[str, Any]
"""A parsed `config.json`."""


@dataclass(frozen=True)
class Family:
    """How an encoder's file names what `EncoderWeights` holds.

    Names are those of modules: `.weight` and `.bias` follow. Several names are joined in order.
    """

    words: str
    embedding_norm: str
    qkv: tuple[str, ...]
    attention: str
    attention_norm: str
    up: tuple[str, ...]
    """The FFN's first product. In a gated FFN: values, then gates."""
    down: str
    ffn_norm: str
    positions: str | None = None
    segments: str | None = None
    projection: str | None = None
    final_norm: str | None = None
    """Given for a pre-LayerNorm family."""
    layers: Callable[[Config], list[str]] = lambda config: _numbered("encoder.layer.{}.", config)
    """What precedes each layer's names. A layer that is named twice is shared."""
    first_position: Callable[[Config], int] = lambda config: 0
    relative_bias: str | None = None
    """MPNet's bias by bucket of distance."""
    distances: str | None = None
    """DeBERTa's embeddings of distances; `qkv` also projects them."""
    gated: bool = False
    gates_first: bool = False
    """The file has the gates' rows before the values'."""
    first_attention_norm: bool = True
    """The first layer has a LayerNorm before its attention block."""
    biased: Mapping[str, str | bool] = field(default_factory=dict)
    """Which of our parts have a bias: yes, no, or the setting that says so. Others have one."""
    rotary_theta: float | None = None
    """The base of rotary positions where the configuration names none; None: not rotary."""
    local_theta: float | None = None
    """The same for the layers that attend to a window."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings that a configuration may leave out."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings that would compute something else, and the values that may be read."""


def setting(config: Config, name: str) -> Any:
    """Find a setting under the names that families give it; None if there is none."""
    for alias in _ALIASES.get(name, (name,)):
        if config.get(alias) is not None:
            return config[alias]
    return None


_ALIASES = {
    "hidden_size": ("hidden_size", "n_embd", "dim"),
    "inner_size": ("intermediate_size", "n_inner", "hidden_dim"),
    "num_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "num_heads": ("num_attention_heads", "n_head", "n_heads"),
    "norm_eps": ("layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
    "activation": ("activation_function", "hidden_act", "hidden_activation", "activation"),
    "max_positions": ("max_position_embeddings", "n_positions"),
    "theta": ("rope_theta", "rotary_emb_base", "global_rope_theta"),
}


def _numbered(pattern: str, config: Config) -> list[str]:
    return [pattern.format(i) for i in range(setting(config, "num_layers"))]


def _albert_layers(config: Config) -> list[str]:
    """Name ALBERT's layers, which share the weights of a few groups (Lan et al., 2020)."""
    count, groups = setting(config, "num_layers"), config.get("num_hidden_groups", 1)
    return [
        f"encoder.albert_layer_groups.{i * groups // count}.albert_layers.{inner}."
        for i in range(count)
        for inner in range(config.get("inner_group_num", 1))
    ]


def layer_kinds(config: Config) -> list[str]:
    """Name ModernBERT's layers: full_attention or sliding_attention."""
    every = config.get("global_attn_every_n_layers", 3)
    kinds = ["sliding_attention" if i % every else "full_attention" for i in range(10_000)]
    found: list[str] = config.get("layer_types") or kinds[: setting(config, "num_layers")]
    return found


_BERT = Family(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    segments="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    ffn_norm="output.LayerNorm",
    defaults={"activation": "gelu", "norm_eps": 1e-12, "type_vocab_size": 2},
    only={"is_decoder": (False,), "position_embedding_type": ("absolute",)},
)
_ROBERTA = replace(_BERT, first_position=lambda config: int(config.get("pad_token_id", 1)) + 1)
_GTE = Family(
    words="embeddings.word_embeddings",
    segments="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    qkv=("attention.qkv_proj",),
    attention="attention.o_proj",
    attention_norm="attn_ln",
    up=("mlp.up_gate_proj",),
    down="mlp.down_proj",
    ffn_norm="mlp_ln",
    gated=True,
    biased={"up": False},
    rotary_theta=10_000.0,
    defaults={"activation": "gelu", "norm_eps": 1e-12, "type_vocab_size": 1},
    only={
        "position_embedding_type": ("rope",),
        "layer_norm_type": ("layer_norm",),
        "logn_attention_scale": (False,),
        "pack_qkv": (True,),
    },
)

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": replace(_BERT, projection="embeddings_project"),
    "albert": replace(
        _BERT,
        layers=_albert_layers,
        projection="encoder.embedding_hidden_mapping_in",
        qkv=("attention.query", "attention.key", "attention.value"),
        attention="attention.dense",
        attention_norm="attention.LayerNorm",
        up=("ffn",),
        down="ffn_output",
        ffn_norm="full_layer_layer_norm",
        defaults={"activation": "gelu_new", "norm_eps": 1e-12, "type_vocab_size": 2},
    ),
    "mpnet": replace(
        _BERT,
        segments=None,
        # MPNet's embeddings fix the padding at 1 whatever the configuration says.
        first_position=lambda config: 2,
        qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        attention="attention.attn.o",
        attention_norm="attention.LayerNorm",
        relative_bias="encoder.relative_attention_bias",
    ),
    "distilbert": replace(
        _BERT,
        segments=None,
        layers=lambda config: _numbered("transformer.layer.{}.", config),
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        attention="attention.out_lin",
        attention_norm="sa_layer_norm",
        up=("ffn.lin1",),
        down="ffn.lin2",
        ffn_norm="output_layer_norm",
    ),
    "deberta-v2": replace(
        _BERT,
        qkv=(
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
        ),
        distances="encoder.rel_embeddings",
        defaults={"activation": "gelu", "norm_eps": 1e-7, "type_vocab_size": 0},
        only={"conv_kernel_size": (0,)},
    ),
    "nomic_bert": Family(
        words="embeddings.word_embeddings",
        segments="embeddings.token_type_embeddings",
        embedding_norm="emb_ln",
        layers=lambda config: _numbered("encoder.layers.{}.", config),
        qkv=("attn.Wqkv",),
        attention="attn.out_proj",
        attention_norm="norm1",
        up=("mlp.fc11", "mlp.fc12"),
        down="mlp.fc2",
        ffn_norm="norm2",
        gated=True,
        biased={
            "qkv": "qkv_proj_bias",
            "attention": "qkv_proj_bias",
            "up": "mlp_fc1_bias",
            "down": "mlp_fc2_bias",
        },
        rotary_theta=1_000.0,
        defaults={"activation": "silu", "norm_eps": 1e-12, "type_vocab_size": 2},
        only={
            "activation_function": ("swiglu",),
            "causal": (False,),
            "moe_every_n_layers": (0,),
            "parallel_block": (False,),
            "prenorm": (False,),
            "rotary_emb_fraction": (1.0,),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (),
            "use_rms_norm": (False,),
        },
    ),
    "gte": _GTE,
    "new": _GTE,
    "modernbert": Family(
        words="embeddings.tok_embeddings",
        embedding_norm="embeddings.norm",
        final_norm="final_norm",
        layers=lambda config: _numbered("layers.{}.", config),
        qkv=("attn.Wqkv",),
        attention="attn.Wo",
        attention_norm="attn_norm",
        first_attention_norm=False,
        up=("mlp.Wi",),
        down="mlp.Wo",
        ffn_norm="mlp_norm",
        gated=True,
        gates_first=True,
        biased={
            "embedding_norm": "norm_bias",
            "attention_norm": "norm_bias",
            "ffn_norm": "norm_bias",
            "final_norm": "norm_bias",
            "qkv": "attention_bias",
            "attention": "attention_bias",
            "up": "mlp_bias",
            "down": "mlp_bias",
        },
        rotary_theta=160_000.0,
        local_theta=10_000.0,
        defaults={"activation": "gelu", "norm_eps": 1e-5, "local_attention": 128},
        only={"position_embedding_type": ("absolute", "rope")},
    ),
}
