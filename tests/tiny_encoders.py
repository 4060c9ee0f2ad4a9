"""Tiny random encoders of every supported family, and random adapters."""

import string
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
_DEBERTA = {
    **_SIZES,
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": "p2c|c2p",
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _SIZES),
    "roberta": ("roberta", _SIZES),
    "xlm-roberta": ("xlm-roberta", _SIZES),
    "camembert": ("camembert", _SIZES),
    "mpnet": ("mpnet", _SIZES),
    "distilbert": ("distilbert", _DISTILBERT),
    "electra": ("electra", _SIZES | {"embedding_size": 16}),
    "electra without a projection": ("electra", _SIZES | {"embedding_size": 32}),
    "albert": ("albert", _SIZES | {"embedding_size": 16}),
    "albert in groups": (
        "albert",
        _SIZES
        | {
            "embedding_size": 16,
            "num_hidden_layers": 3,
            "num_hidden_groups": 2,
            "inner_group_num": 2,
        },
    ),
    "nomic_bert": ("nomic_bert", _SIZES),
    "gte": ("gte", _SIZES),
    "gte without segments": ("gte", _SIZES | {"type_vocab_size": 0}),
    "deberta-v2": ("deberta-v2", _DEBERTA),
    "deberta-v2 with projections of its own": (
        "deberta-v2",
        _DEBERTA | {"share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none"},
    ),
    "deberta-v2 with one kind": (
        "deberta-v2",
        _DEBERTA
        | {
            "pos_att_type": ["c2p"],
            "position_buckets": 64,
            "position_biased_input": True,
            "type_vocab_size": 2,
        },
    ),
    "deberta-v2 without distances": ("deberta-v2", _DEBERTA | {"relative_attention": False}),
    "modernbert": (
        "modernbert",
        _SIZES | {"num_hidden_layers": 4, "local_attention": 6, "hidden_activation": "gelu"},
    ),
    "modernbert with biases": (
        "modernbert",
        _SIZES | {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
    ),
}
"""The families, and the settings of one that change what is computed."""
FAMILIES = tuple(name for name in VARIANTS if " " not in name)

_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_PIECES = [*_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
_SPECIAL = {
    True: ["[CLS]", "[PAD]", "[SEP]", "[UNK]"],  # RoBERTa's order: padding is 1
    False: ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
}


def tiny_model(family: str = "bert", *, seed: int = 0, **settings: Any) -> Any:
    """A small random Hugging Face encoder of hidden size 32, no parameter at its default.

    `family` is a name in `VARIANTS`. It has 2 layers unless its settings say more.
    """
    family, sizes = VARIANTS[family]
    config = transformers.AutoConfig.for_model(
        family,
        **{
            "vocab_size": len(_PIECES) + 4,
            "max_position_embeddings": 256,
            "initializer_range": 0.3,
            "pad_token_id": int(_pads_with_one(family)),
            **sizes,
            **settings,
        },
    )
    torch.manual_seed(seed)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases and LayerNorms start at 0 and 1
                scale = 0.1 if "norm" in name.lower() else 0.3
                parameter.add_(torch.randn_like(parameter) * scale)
    return model


def save_tiny_encoder(
    folder: Path, *, seed: int = 0, family: str = "bert", **settings: Any
) -> Path:
    """`tiny_model` as a folder, with a tokenizer whose tokens are single characters."""
    tiny_model(family, seed=seed, **settings).save_pretrained(folder)
    special = _SPECIAL[_pads_with_one(family)]
    vocabulary = {word: n for n, word in enumerate([*special, *_PIECES])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def random_adapter(
    encoder: Encoder, *, seed: int, bottleneck_size: int = 6, scale: float = 0.5
) -> BottleneckAdapter:
    """An adapter strong enough that a wrong one changes every embedding plainly."""
    adapter = BottleneckAdapter.new(
        encoder.num_layers, encoder.hidden_size, bottleneck_size, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(0, scale, generator=generator)
    return adapter.requires_grad_(False)


def random_rows(lengths: list[int], *, seed: int = 0, first: int = 4) -> list[list[int]]:
    """Token ids without special tokens, [len(lengths)] rows."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(first, len(_PIECES) + 4, (length,), generator=generator).tolist()
        for length in lengths
    ]


def _pads_with_one(family: str) -> bool:
    return family in ("roberta", "xlm-roberta", "camembert", "mpnet")
