"""Tiny random encoders of every supported family, and random adapters."""

import string
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder

FAMILIES = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert")

_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_PIECES = [*_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
_SPECIAL = {
    True: ["[CLS]", "[PAD]", "[SEP]", "[UNK]"],  # RoBERTa's order: padding is 1
    False: ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
}


def tiny_model(family: str = "bert", *, seed: int = 0, **settings: Any) -> Any:
    """A random 2-layer Hugging Face encoder of hidden size 32, no parameter at its default."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
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
    return family in ("roberta", "xlm-roberta", "mpnet")
