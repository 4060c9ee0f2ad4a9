"""An encoder of random numbers that takes milliseconds: drills are about faults, not quality."""

import string
from pathlib import Path

_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def make_tiny_encoder(
    folder: Path, *, seed: int = 0, layers: int = 2, hidden_size: int = 32
) -> Path:
    """Write a few layers, with heads of width 8, and a tokenizer of single characters."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = [*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 8,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
